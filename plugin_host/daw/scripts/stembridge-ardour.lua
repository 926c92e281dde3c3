ardour {
  ["type"] = "EditorAction",
  name = "Separate track with stembridge",
  license = "GPL",
  author = "stembridge",
  description = [[Saves the session as a snapshot with a track for every stem of the selected track.]]
}

function factory () return function ()
  local command = [==[@COMMAND@]==] -- a line without anything of the session's in it
  local requests = [==[@REQUESTS@]==]

  local routes = Editor:get_selection().tracks:routelist()
  if routes:empty() then
    LuaDialog.Message("stembridge", "Select the track to separate first.",
      LuaDialog.MessageType.Info, LuaDialog.ButtonType.Close):run()
    return
  end
  local name = routes:front():name()
  local answer = LuaDialog.Dialog("stembridge: " .. name, {
    { type = "entry", key = "prompts", title = "Prompts, divided by ;", default = "" },
    { type = "entry", key = "preset", title = "or a preset", default = "band" },
    { type = "checkbox", key = "mute", title = "Mute the track", default = true },
  }):run()
  if not answer then return end

  Session:save_state("", false, false, false, false, false)
  local folder, session = Session:path(), Session:name()
  local snapshot = session .. " with stems of " .. name:gsub("[/\\:]", "-")

  local arguments = { "session", "apply", folder .. "/" .. session .. ".ardour", "--track", name,
                      "--out", folder .. "/" .. snapshot .. ".ardour" }
  if answer.prompts ~= "" then
    for prompt in answer.prompts:gmatch("[^;]+") do
      arguments[#arguments + 1] = "--prompt"
      arguments[#arguments + 1] = (prompt:gsub("^%s+", ""):gsub("%s+$", ""))
    end
  else
    arguments[#arguments + 1] = "--preset"
    arguments[#arguments + 1] = answer.preset
  end
  if answer.mute then arguments[#arguments + 1] = "--mute-source" end

  -- What to do goes into a file, one argument a line: names and prompts meet no shell.
  local request = requests .. "/ardour-" .. tostring(os.time())
  local file = io.open(request .. ".part", "wb")
  for _, argument in ipairs(arguments) do
    file:write((argument:gsub("[\r\n]", " ")), "\n")
  end
  file:close()
  os.rename(request .. ".part", request .. ".request")
  os.execute(command .. " &")
  LuaDialog.Message("stembridge",
    "Working. When it is done, open the snapshot\n\n" .. snapshot .. "\n\nunder Session > Open.",
    LuaDialog.MessageType.Info, LuaDialog.ButtonType.Close):run()
end end

ardour {
  ["type"] = "EditorAction",
  name = "Separate tracks with stembridge",
  license = "GPL",
  author = "stembridge",
  description = [[Saves a snapshot with a track for every stem of the selected tracks or regions.]]
}

function factory () return function ()
  local words = { @WORDS@ } -- a command without anything of the session's in it
  local command = [==[@COMMAND@]==] -- the same as a line for a shell
  local requests = [==[@REQUESTS@]==]

  local function message (text)
    LuaDialog.Message("stembridge", text, LuaDialog.MessageType.Info, LuaDialog.ButtonType.Close):run()
  end

  if not (io and os) then
    return message("Allow scripts to use files: switch off Preferences > Scripting > Sandbox all Lua scripts.")
  end

  local function read (path)
    local file = io.open(path, "rb")
    if not file then return nil end
    local content = file:read("a")
    file:close()
    return content
  end

  local function identity (object)
    return object:to_stateful():id():to_s()
  end

  local selection = Editor:get_selection()
  local routes = selection.tracks:routelist()
  local tracks = {}
  if not routes:empty() and routes.iter then
    for route in routes:iter() do tracks[#tracks + 1] = route end
  elseif not routes:empty() then
    tracks = { routes:front() }
  end
  if #tracks == 0 then return message("Select the tracks to separate first.") end
  local regions = {}
  if selection.regions then
    for region in selection.regions:regionlist():iter() do regions[#regions + 1] = identity(region) end
  end

  local name = #tracks == 1 and tracks[1]:name() or #tracks .. " tracks"
  local fields = {
    { type = "entry", key = "prompts", title = "Prompts, divided by ;", default = "" },
    { type = "entry", key = "preset", title = "or a preset", default = "band" },
    { type = "dropdown", key = "quality", title = "Quality", default = "as the model has it",
      values = { ["as the model has it"] = "", draft = "draft", good = "good", best = "best" } },
    { type = "checkbox", key = "draft", title = "A draft first, in a snapshot of its own", default = false },
    { type = "checkbox", key = "mute", title = "Mute what is separated", default = true },
  }
  if #regions > 0 then
    table.insert(fields, { type = "checkbox", key = "regions", default = false,
                           title = "Only the selected regions (" .. #regions .. ")" })
  end
  local answer = LuaDialog.Dialog("stembridge: " .. name, fields):run()
  if not answer then return end

  -- The snapshot that is open is saved, and separated.
  Session:save_state("", false, false, false, false, false)
  local folder, open = Session:path(), Session:snap_name()
  local behind = " stems of " .. name:gsub("[/\\:]", "-")

  -- Have stems of a quality put into a snapshot; gives the name of the request, or nil.
  local function ask (quality, snapshot)
    local arguments = { "session", "apply", folder .. "/" .. open .. ".ardour",
                        "--out", folder .. "/" .. snapshot .. ".ardour" }
    local function add (...)
      for _, word in ipairs({ ... }) do arguments[#arguments + 1] = word end
    end
    for _, track in ipairs(tracks) do add("--track", identity(track)) end
    if answer.regions then
      for _, region in ipairs(regions) do add("--item", region) end
    end
    if answer.prompts ~= "" then
      for prompt in answer.prompts:gmatch("[^;]+") do
        add("--prompt", (prompt:gsub("^%s+", ""):gsub("%s+$", "")))
      end
    else
      add("--preset", answer.preset)
    end
    if quality and quality ~= "" then add("--quality", quality) end
    if answer.mute then add("--mute-source") end

    -- What to do goes into a file, one argument a line: names and prompts meet no shell.
    local request = requests .. "/ardour-" .. os.time() .. "-" .. (quality or "")
    local file = io.open(request .. ".part", "wb")
    if not file then return nil end
    for _, argument in ipairs(arguments) do
      file:write((argument:gsub("[\r\n]", " ")), "\n")
    end
    file:close()
    os.rename(request .. ".part", request .. ".request")

    if os.forkexec then
      -- Ardour's own: returns at once on every system.
      os.forkexec(table.unpack(words))
    else
      os.execute(command .. " &")
    end
    return request
  end

  local drafting = answer.draft and answer.quality ~= "draft" and LuaDialog.ProgressWindow
  local snapshot = open .. " with" .. (drafting and " draft" or "") .. behind
  local request = ask(drafting and "draft" or answer.quality, snapshot)
  if not request then return message("Cannot write to " .. requests .. "; is the disk full?") end
  if not LuaDialog.ProgressWindow then
    return message("Working. When it is done, open the snapshot\n\n" .. snapshot .. "\n\nunder Session > Open.")
  end

  -- The window lets the editor go on between two looks.
  local window = LuaDialog.ProgressWindow("stembridge: " .. name, true)
  local function over (text)
    for _, suffix in ipairs({ ".request", ".running", ".alive", ".log.part", ".log", ".cancel" }) do
      os.remove(request .. suffix)
    end
    window:done()
    if text then message(text) end
  end
  local alive, since, turns, cancelled = nil, 0, 0, false
  while true do
    local log = read(request .. ".log")
    local code = log and log:match("\nexit (%d+)%s*$")
    if code == "0" then
      local written = log:match("([^\r\n/\\]*)%.ardour: ") or snapshot
      local notes = ""
      for text in log:gmatch("\n%s+note: ([^\r\n]*)") do notes = notes .. "\n\n" .. text end
      if drafting then
        -- To open a snapshot ends this script, so nothing can wait for the stems and put them in
        -- the place of the draft: they come as a snapshot too, made by a process of its own.
        over()
        local later = open .. " with" .. behind
        if not ask(answer.quality, later) then
          return message("The draft is in the snapshot\n\n" .. written .. "\n\nNo more can be written; is the disk full?")
        end
        return message("A draft is there. Open the snapshot\n\n" .. written .. "\n\nunder Session > Open and listen. "
          .. "The stems are being computed meanwhile; when they are done there will be a snapshot\n\n" .. later .. notes)
      end
      return over("Done. Open the snapshot\n\n" .. written .. "\n\nunder Session > Open." .. notes)
    elseif code then
      return over(code ~= "130" and (log:match("(stembridge: [^\r\n]*)") or log) or nil)
    end
    local now, line = read(request .. ".alive"), "starting"
    for row in (read(request .. ".log.part") or ""):gmatch("([^\r\n]+)") do line = row end
    if now ~= alive then alive, since = now, turns end
    if not alive and turns > 300 then
      return over("stembridge did not start. Was it moved or removed? Run\n\nstembridge daw install ardour")
    elseif alive and turns - since > 600 then
      return over("stembridge has stopped working: its process was ended from outside.")
    end
    local done, total = line:match("(%d+)/(%d+)[^/]*$")
    local share = done and tonumber(total) > 0 and tonumber(done) / tonumber(total) or 0
    window:progress(share, cancelled and "cancelling" or line)
    if window:canceled() and not cancelled then
      cancelled = true
      local stop = io.open(request .. ".cancel", "wb")
      if stop then stop:close() end
      os.remove(request .. ".request")
    end
    ARDOUR.LuaAPI.usleep(100000)
    turns = turns + 1
  end
end end

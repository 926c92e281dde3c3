-- @description Separate tracks or items with stembridge
-- @author stembridge
-- @about Stems for the selected tracks or items, as tracks or as takes. For REAPER 6.80 or newer on
--   any system; needs the command line, which `stembridge daw install reaper` connects.
--
-- The work is done by the command line on a copy of the project's file, in a process of its own:
-- REAPER stays usable, and what is new is put in when it has finished, as one undo step. With a
-- draft first there are two of them: the drafts, and the stems in their place.

local COMMAND = [==[@COMMAND@]==] -- a line without anything of the project's in it
local REQUESTS = [==[@REQUESTS@]==]

-- REAPER calls a deferred function about 30 times a second.
local TURNS_TO_START = 900
local TURNS_TO_LIVE = 1800

local function message(text)
  reaper.ShowMessageBox(text, "stembridge", 0)
end

local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local content = file:read("*a")
  file:close()
  return content
end

local function write(path, content)
  local file = io.open(path, "wb")
  if not file then return false end
  file:write(content)
  file:close()
  return true
end

-- Installed by ReaPack, the script finds the command where the command line has left it.
if COMMAND:match("^@") then
  local told = read(reaper.GetResourcePath() .. "/stembridge.conf") or ""
  COMMAND, REQUESTS = told:match("([^\n]*)\n([^\n]*)")
  if not COMMAND then
    return message("stembridge is not connected yet. Install it (pip install stembridge) and run\n\n"
      .. "stembridge daw install reaper")
  end
end

----------------------------------------------------------------------------------------------------
-- What is asked for

local project, path = reaper.EnumProjects(-1)
if path == "" then return message("Save the project first, so that stems have a place.") end

local tracks = {}
for index = 0, (reaper.CountSelectedTracks and reaper.CountSelectedTracks(project) or 1) - 1 do
  tracks[#tracks + 1] = reaper.GetSelectedTrack(project, index)
end
local items = reaper.CountSelectedMediaItems and reaper.CountSelectedMediaItems(project) or 0
if #tracks == 0 and items == 0 then
  return message("Select tracks or items to separate first.")
end

local function track_guid(track)
  return reaper.GetTrackGUID(track)
end

local function presets()
  local names = {}
  for name in (read((REQUESTS:gsub("[^/\\]*$", "presets.txt"))) or "band\n"):gmatch("([^\r\n]+)") do
    names[#names + 1] = name
  end
  return names
end

local function remembered(key, default)
  if not reaper.GetExtState then return default end
  local value = reaper.GetExtState("stembridge", key)
  return value ~= "" and value or default
end

local wanted = {
  prompts = remembered("prompts", ""),
  preset = remembered("preset", "band"),
  quality = remembered("quality", ""),
  place = remembered("place", "tracks"),
  mute = remembered("mute", "yes") == "yes",
  draft = remembered("draft", "yes") == "yes",
  items = #tracks == 0,
}

local function remember()
  if not reaper.SetExtState then return end
  for _, key in ipairs({ "prompts", "preset", "quality", "place" }) do
    reaper.SetExtState("stembridge", key, wanted[key], true)
  end
  for _, key in ipairs({ "mute", "draft" }) do
    reaper.SetExtState("stembridge", key, wanted[key] and "yes" or "no", true)
  end
end

----------------------------------------------------------------------------------------------------
-- The run

local run = nil

local function arguments_of(quality, from, copy)
  -- The copy is deleted afterwards; undo is REAPER's.
  local arguments = { "session", "apply", from, "--out", copy, "--no-undo" }
  local function add(...)
    for _, word in ipairs({ ... }) do arguments[#arguments + 1] = word end
  end
  for _, track in ipairs(tracks) do add("--track", track_guid(track)) end
  if wanted.items then add("--items") end
  if wanted.prompts:match("%S") then
    for prompt in wanted.prompts:gmatch("[^;]+") do
      add("--prompt", (prompt:gsub("^%s+", ""):gsub("%s+$", "")))
    end
  else
    add("--preset", wanted.preset)
  end
  if quality ~= "" then add("--quality", quality) end
  local from, to = reaper.GetSet_LoopTimeRange(false, false, 0, 0, false)
  local ranged = to > from and not wanted.items and wanted.place == "tracks"
  if ranged then add("--range", string.format("%.6f:%.6f", from, to)) end
  if wanted.place == "takes" then
    add("--as", "takes")
  elseif wanted.mute and not ranged then
    add("--mute-source")
  end
  return arguments
end

-- Have a file of the project separated; false if that cannot be asked for.
local function ask(quality, from, name)
  local base = path:gsub("%.[^.\\/]*$", "")
  run.copy = base .. " stembridge " .. name .. ".rpp"
  run.request = REQUESTS .. "/reaper-" .. name
  run.turns, run.line, run.alive, run.since = 0, "starting", nil, nil
  -- What to do goes into a file, one argument a line: names and prompts meet no shell.
  local lines = {}
  for _, argument in ipairs(arguments_of(quality, from, run.copy)) do
    lines[#lines + 1] = (argument:gsub("[\r\n]", " "))
  end
  if not write(run.request .. ".part", table.concat(lines, "\n") .. "\n") then return false end
  os.rename(run.request .. ".part", run.request .. ".request")
  -- -2: return at once and let it run in the background.
  reaper.ExecProcess(COMMAND, -2)
  return true
end

local function start()
  reaper.Main_SaveProject(project, false)
  local stamp = tostring(math.floor(reaper.time_precise() * 1000))
  run = { before = read(path) or "", stamp = stamp, drafting = wanted.draft and wanted.quality ~= "draft" }
  if not ask(run.drafting and "draft" or wanted.quality, path, stamp) then
    run = nil
    message("Cannot write to " .. REQUESTS .. "; is the disk full?")
  end
end

-- Chunks of a kind at a depth of a project's text, with where they begin among their kind.
local function chunks_of(text, kind, wanted_depth)
  local found, depth, current, from = {}, 0, nil, 0
  for row in text:gmatch("[^\n]*\n?") do
    local bare = row:match("^%s*(.-)%s*$")
    if bare:sub(1, 1) == "<" then
      depth = depth + 1
      if not current and depth == wanted_depth and bare:match("^<" .. kind .. "%f[%s\0]") then
        current, from = {}, depth
      end
    end
    if current then current[#current + 1] = row end
    if bare == ">" then
      if current and depth == from then
        found[#found + 1] = table.concat(current)
        current = nil
      end
      depth = depth - 1
    end
  end
  return found
end

local function field(chunk, word)
  return chunk:match("\n%s*" .. word .. "%s+([^\r\n]*)")
end

-- A new track without what it receives, which the numbers of tracks in the copy stand for.
local function without_receives(chunk)
  local kept, depth, skipping = {}, 0, false
  for row in chunk:gmatch("[^\n]*\n?") do
    local bare = row:match("^%s*(.-)%s*$")
    if bare:sub(1, 1) == "<" then
      depth = depth + 1
      if depth == 2 and bare:match("^<AUX%a*ENV") then skipping = true end
    end
    if not skipping and not (depth == 1 and bare:match("^AUXRECV%s")) then kept[#kept + 1] = row end
    if bare == ">" then
      if depth == 2 then skipping = false end
      depth = depth - 1
    end
  end
  return table.concat(kept)
end

local function find_track(guid)
  for index = 0, reaper.CountTracks(project) - 1 do
    local track = reaper.GetTrack(project, index)
    if track_guid(track) == guid then return track, index end
  end
end

local SENT = { "B_MUTE", "B_PHASE", "B_MONO", "D_VOL", "D_PAN", "D_PANLAW", "I_SENDMODE",
  "I_AUTOMODE", "I_SRCCHAN", "I_DSTCHAN", "I_MIDIFLAGS" }

-- Let a folder send to and receive from whatever a track does.
local function copy_sends(track, folder, receives)
  if not reaper.GetTrackNumSends then return end
  for category, key in pairs(receives and { [0] = "P_DESTTRACK", [-1] = "P_SRCTRACK" }
      or { [0] = "P_DESTTRACK" }) do
    for index = 0, reaper.GetTrackNumSends(track, category) - 1 do
      local other = reaper.GetTrackSendInfo_Value(track, category, index, key)
      local from, to = folder, other
      if category == -1 then from, to = other, folder end
      local made = reaper.CreateTrackSend(from, to)
      for _, name in ipairs(SENT) do
        local value = reaper.GetTrackSendInfo_Value(track, category, index, name)
        reaper.SetTrackSendInfo_Value(from, 0, made, name, value)
      end
    end
  end
end

local function is_open()
  for index = 0, 1000 do
    local one = reaper.EnumProjects(index)
    if one == nil then return false end
    if one == project then return true end
  end
  return false
end

local function put_in(text)
  local known = {}
  for index = 0, reaper.CountTracks(project) - 1 do
    known[track_guid(reaper.GetTrack(project, index))] = true
  end
  local was = {}
  for _, chunk in ipairs(chunks_of(run.before, "TRACK", 2)) do
    was[chunk:match("{.-}") or ""] = chunk
    for _, item in ipairs(chunks_of(chunk, "ITEM", 2)) do was[field(item, "IGUID") or ""] = item end
  end
  local source, source_chunk, after, folder = nil, nil, nil, nil
  for _, chunk in ipairs(chunks_of(text, "TRACK", 2)) do
    local guid = chunk:match("{.-}")
    if guid and not known[guid] then
      if not after then
        local _, index = find_track(source)
        after = index or reaper.CountTracks(project) - 1
        folder = nil
      end
      reaper.InsertTrackAtIndex(after + 1, false)
      local track = reaper.GetTrack(project, after + 1)
      reaper.SetTrackStateChunk(track, without_receives(chunk), false)
      local from = folder == nil and source and find_track(source)
      if from and source_chunk and not (field(source_chunk, "ISBUS") or ""):match("^1") then
        copy_sends(from, track, wanted.mute)
      end
      folder = folder or track
      after = after + 1
    elseif guid then
      source, source_chunk, after = guid, chunk, nil
      local track, old = find_track(guid), was[guid] or ""
      if track and (field(chunk, "MUTESOLO") or ""):match("^1")
          and not (field(old, "MUTESOLO") or ""):match("^1") then
        reaper.SetMediaTrackInfo_Value(track, "B_MUTE", 1)
      end
      -- The last track of a folder hands its end on to the stems.
      if track and field(chunk, "ISBUS") ~= field(old, "ISBUS") then
        local depth = (field(chunk, "ISBUS") or "0 0"):match("^%S+%s+(%S+)")
        reaper.SetMediaTrackInfo_Value(track, "I_FOLDERDEPTH", tonumber(depth) or 0)
      end
      local changed = {}
      for _, item in ipairs(chunks_of(chunk, "ITEM", 2)) do
        local name = field(item, "IGUID")
        if name and was[name] and was[name] ~= item then changed[name] = item end
      end
      if track and next(changed) then
        for index = 0, reaper.CountTrackMediaItems(track) - 1 do
          local item = reaper.GetTrackMediaItem(track, index)
          local _, name = reaper.GetSetMediaItemInfo_String(item, "GUID", "", false)
          if changed[name] then reaper.SetItemStateChunk(item, changed[name], false) end
        end
      end
    end
  end
end

-- Files that a project plays, in order, without those that it played before.
local function new_files(text)
  local before, found = {}, {}
  for _, whole in ipairs({ run.before, text }) do
    for name in whole:gmatch("\n%s*FILE ([^\r\n]*)") do
      local mark = name:sub(1, 1)
      name = mark:match("[\"'`]") and name:match("^.([^" .. mark .. "]*)") or name:match("^%S*")
      if whole == run.before then before[name] = true elseif not before[name] then found[#found + 1] = name end
    end
  end
  return found
end

-- The end of a path by which REAPER and we call a file the same, wherever its folder is told from.
local function tail_of(name)
  return name:gsub("\\", "/"):match("[^/]+/[^/]+/[^/]+$") or name
end

-- An item's text with the stems in the place of their drafts, or nil if it plays no draft.
local function with_stems(chunk, stems)
  local found = false
  local text = chunk:gsub("(\n%s*FILE )([^\r\n]*)", function(word, name)
    local plain = name:gsub("\\", "/")
    for draft, stem in pairs(stems) do
      local from, to = plain:find(draft, 1, true)
      if from and (from == 1 or plain:sub(from - 1, from - 1):match("[/\"'`]")) then
        found = true
        if name:find("\\", 1, true) then stem = stem:gsub("/", "\\") end
        return word .. name:sub(1, from - 1) .. stem .. name:sub(to + 1)
      end
    end
  end)
  return found and text or nil
end

-- Items that play drafts, and their texts with the stems instead.
local function drafted(stems)
  local found = {}
  for index = 0, reaper.CountMediaItems(project) - 1 do
    local item = reaper.GetMediaItem(project, index)
    local _, chunk = reaper.GetItemStateChunk(item, "", false)
    local text = with_stems(chunk, stems)
    if text then found[#found + 1] = { item = item, text = text } end
  end
  return found
end

-- The drafts with the stems that a text plays in their place, or nil if they do not fit each other.
local function stems_for_drafts(text)
  local files = new_files(text)
  if not run.drafts or #files ~= #run.drafts then return nil end
  local stems = {}
  for index, file in ipairs(files) do stems[tail_of(run.drafts[index])] = tail_of(file) end
  return stems
end

local function what()
  return #tracks == 1 and select(2, reaper.GetTrackName(tracks[1]))
    or #tracks > 1 and #tracks .. " tracks" or items .. " items"
end

-- After a cancelled job: undo the drafts, unless the project was changed since. True if none is left.
local function take_back()
  if not run.drafts or not is_open() then return true end
  local same = {}
  for _, file in ipairs(run.drafts) do same[tail_of(file)] = tail_of(file) end
  if #drafted(same) == 0 then return true end
  if reaper.Undo_CanUndo2(project) ~= run.label then return false end
  reaper.Undo_DoUndo2(project)
  reaper.UpdateArrange()
  return true
end

local function clean()
  for _, suffix in ipairs({ ".request", ".part", ".running", ".alive", ".log.part", ".log", ".cancel" }) do
    os.remove(run.request .. suffix)
  end
  os.remove(run.copy)
  if run.source then os.remove(run.source) end
end

local function finish()
  local text = read(run.copy)
  if not text or not is_open() then
    clean()
    return text and "The project was closed meanwhile. Its stems lie in the folder stembridge beside it; "
      .. "open it and run this again to have them as tracks." or "The result cannot be read; is the disk full?"
  end
  -- The user may look at another tab by now.
  local active = reaper.EnumProjects(-1)
  if active ~= project then reaper.SelectProjectInstance(project) end
  local stems = stems_for_drafts(text)
  local places = stems and drafted(stems) or {}
  run.label = "stembridge: " .. (run.drafting and "draft " or "") .. "stems of " .. what()
  reaper.Undo_BeginBlock()
  -- What was done to the drafts meanwhile stays: only what they play is another. The files of the
  -- drafts stay too, since undo leads back to them.
  for _, place in ipairs(places) do reaper.SetItemStateChunk(place.item, place.text, false) end
  if #places == 0 then put_in(text) end
  reaper.Undo_EndBlock(run.label, -1)
  reaper.UpdateArrange()
  if run.drafting then run.drafts = new_files(text) end
  if active ~= project then reaper.SelectProjectInstance(active) end
  clean()
  return nil
end

-- What the command said about the stems, a line each, or nil.
local function notes_in(log)
  local found = {}
  for text in log:gmatch("\n%s+note: ([^\r\n]*)") do found[#found + 1] = text end
  return #found > 0 and table.concat(found, "\n") or nil
end

-- One look at how far it is: true and perhaps a text for the user once it is over.
local function poll()
  run.turns = run.turns + 1
  local log = read(run.request .. ".log")
  local code = log and log:match("\nexit (%d+)%s*$")
  if code == "0" then
    local failed = finish()
    if failed or not run.drafting then return true, failed or notes_in(log) end
    -- The project as it was, since REAPER may save it with the drafts meanwhile.
    run.drafting, run.source = false, path:gsub("%.[^.\\/]*$", "") .. " stembridge " .. run.stamp .. " before.rpp"
    if write(run.source, run.before) and ask(wanted.quality, run.source, run.stamp .. "-2") then return false end
    return true, "Cannot write any more; is the disk full? What is there is the draft."
  end
  local drafts = run.drafts and "\n\nWhat is there is the draft; undo takes it away." or ""
  if code == "130" then
    clean()
    return true, not take_back() and "Cancelled, but the project was changed since the draft came." .. drafts or nil
  end
  if code then
    clean()
    return true, (log:gsub("\nexit %d+%s*$", ""):match("(stembridge: .*)") or log) .. drafts
  end
  local alive = read(run.request .. ".alive")
  local going = read(run.request .. ".log.part")
  if not alive and not going then
    if run.turns > TURNS_TO_START then
      clean()
      return true, "stembridge did not start. Was it moved or removed? Run\n\n"
        .. "stembridge daw install reaper\n\nonce more, and try again." .. drafts
    end
    return false
  end
  if alive ~= run.alive then run.alive, run.since = alive, run.turns end
  if run.turns - (run.since or run.turns) > TURNS_TO_LIVE then
    clean()
    return true, "stembridge has stopped working: its process was ended from outside. "
      .. (drafts ~= "" and drafts or "Nothing was changed.")
  end
  for line in (going or ""):gmatch("([^\r\n]+)") do run.line = line end
  return false
end

local function cancel()
  write(run.request .. ".cancel", "")
  os.remove(run.request .. ".request")
  run.line = "cancelling"
  run.cancelled = true
end

----------------------------------------------------------------------------------------------------
-- Without a window: ask, wait, tell

if not gfx then
  local accepted, answer = reaper.GetUserInputs("stembridge", 2,
    "Prompts (a; b=text) or preset,Mute the track (yes/no),extrawidth=200,separator=|", "preset:band|yes")
  if not accepted then return end
  local text, mute = answer:match("^(.-)|(.*)$")
  wanted.mute = mute:lower():match("^y") ~= nil
  wanted.preset = text:match("^%s*preset:%s*(.-)%s*$") or wanted.preset
  wanted.prompts = text:match("^%s*preset:") and "" or text
  wanted.draft = false -- nothing shows what it is, and nothing cancels what follows
  local function wait()
    local over, told = poll()
    if not over then return reaper.defer(wait) end
    if told then message(told) end
  end
  start()
  if run then reaper.defer(wait) end
  return
end

----------------------------------------------------------------------------------------------------
-- The window

local WIDTH, HEIGHT, ROW = 460, 300, 24
local offered = presets()
local typing = false -- until a letter, so that 1 to 9 are presets also beside a remembered prompt
local pressed = false
local QUALITIES = { "", "draft", "good", "best" }
local UNICODE = 0x75000000 -- what is added to the code of a character beyond Latin-1
local KEY = { ENTER = 13, ESCAPE = 27, BACKSPACE = 8, TAB = 9 }

local function cycle(values, value)
  for index, one in ipairs(values) do
    if one == value then return values[index % #values + 1] end
  end
  return values[1]
end

local function label(x, y, text, bright)
  local level = bright and 1 or 0.65
  gfx.set(level, level, level, 1)
  gfx.x, gfx.y = x, y
  gfx.drawstr(text)
end

-- A row that a click changes; true if it was clicked in this turn.
local function row(number, name, value, clicked)
  local y = 12 + (number - 1) * ROW
  label(12, y, name, false)
  label(120, y, value, true)
  return clicked and gfx.mouse_y >= y and gfx.mouse_y < y + ROW
end

local function form(clicked, key)
  local prompt = wanted.prompts .. (typing and "|" or "")
  if row(1, "Prompts", prompt ~= "" and prompt or "(click to type: drums; vox=lead vocals)", clicked) then
    typing = true
  elseif clicked then
    typing = false
  end
  local shown = {}
  for index = 1, math.min(9, #offered) do
    local mark = offered[index] == wanted.preset and not wanted.prompts:match("%S")
    shown[#shown + 1] = (mark and "[" or "") .. index .. " " .. offered[index] .. (mark and "]" or "")
  end
  if row(2, "Preset", wanted.preset, clicked) then
    wanted.preset, wanted.prompts = cycle(offered, wanted.preset), ""
  end
  label(120, 12 + 2 * ROW, table.concat(shown, "  ", 1, math.min(4, #shown)), false)
  label(120, 12 + 3 * ROW, table.concat(shown, "  ", math.min(5, #shown + 1)), false)
  if row(5, "Quality", wanted.quality == "" and "as the model has it" or wanted.quality, clicked) then
    wanted.quality = cycle(QUALITIES, wanted.quality)
  end
  if row(6, "What", wanted.items and items .. " selected items" or #tracks .. " selected tracks", clicked)
      and items > 0 and #tracks > 0 then
    wanted.items = not wanted.items
  end
  if row(7, "As", wanted.place, clicked) then wanted.place = cycle({ "tracks", "takes" }, wanted.place) end
  if row(8, "Mute source", wanted.mute and "yes" or "no", clicked) then wanted.mute = not wanted.mute end
  local drafts = wanted.quality == "draft" and "no other" or wanted.draft and "yes, then the stems in its place" or "no"
  if row(9, "Draft first", drafts, clicked) then wanted.draft = not wanted.draft end
  local go = row(10, "", "[ Separate ]  Enter", clicked)
  label(120, 12 + 10 * ROW, "Esc closes; 1 to 9 choose a preset", false)
  if key == KEY.TAB then typing = not typing end
  if typing and key == KEY.BACKSPACE then
    wanted.prompts = wanted.prompts:gsub("[\0-\127\194-\244][\128-\191]*$", "")
  elseif not typing and key >= 49 and key <= 57 then
    if offered[key - 48] then wanted.preset, wanted.prompts = offered[key - 48], "" end
  elseif key >= 32 and key < 256 and key ~= 127 then
    typing, wanted.prompts = true, wanted.prompts .. utf8.char(key)
  elseif key > UNICODE and key <= UNICODE + 0x10ffff then
    typing, wanted.prompts = true, wanted.prompts .. utf8.char(key - UNICODE)
  end
  if go or key == KEY.ENTER then
    remember()
    start()
  end
end

local function progress(clicked, key)
  local done, total = run.line:match("(%d+)/(%d+)[^/]*$")
  label(12, 12, (run.drafts and "The draft is there. " or run.drafting and "Draft: " or "") .. run.line, true)
  if done and tonumber(total) > 0 then
    gfx.set(0.3, 0.6, 0.9, 1)
    gfx.rect(12, 48, (WIDTH - 24) * tonumber(done) / tonumber(total), 16, 1)
  end
  gfx.set(0.5, 0.5, 0.5, 1)
  gfx.rect(12, 48, WIDTH - 24, 16, 0)
  if not run.cancelled and (row(4, "", "[ Cancel ]  Esc", clicked) or key == KEY.ESCAPE) then cancel() end
end

local function loop()
  local key = gfx.getchar()
  local clicked = gfx.mouse_cap % 2 == 1 and not pressed
  pressed = gfx.mouse_cap % 2 == 1
  if key < 0 then
    -- The window was closed: what runs is given up.
    if not run then return end
    if not run.cancelled then cancel() end
  end
  if run then
    progress(clicked, key)
    local over, told = poll()
    if over then
      gfx.quit()
      if told then message(told) end
      return
    end
  elseif key == KEY.ESCAPE then
    return gfx.quit()
  else
    form(clicked, key)
  end
  if key >= 0 then gfx.update() end
  reaper.defer(loop)
end

gfx.init("stembridge", WIDTH, HEIGHT)
gfx.setfont(1, "Arial", 15)
loop()

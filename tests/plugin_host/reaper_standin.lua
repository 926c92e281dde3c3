-- A stand-in for REAPER: its API by name and number of arguments (reaper_api.txt, made from the
-- public list of version 6.74: one number, or the least and the most), and
-- what a script may do to projects, told on the standard output. Given as globals: SCRIPT, API,
-- PROJECT, TRACKS (numbers of the selected tracks), ITEMS (number of selected items), KEYS (codes of
-- the keys pressed, one a turn), CLICK (a turn and where the mouse is pressed then), STORED (what was
-- remembered: key=value;...), RUN (started for the command), SWITCH ("yes": another tab is looked
-- at meanwhile), CLOSE ("yes": the project is closed meanwhile), WINDOW ("no": without gfx), MEANWHILE
-- ("mute", "undo": what the user does to the project while the second request is worked on), UNDO (how
-- often the user undoes at the end).

local counts, ranges = {}, {}
for line in io.lines(API) do
  local name, count = line:match("^reaper%.(%S+) (%d+)")
  if name then counts[name] = tonumber(count) end
  local drawing, least, most = line:match("^gfx%.(%S+) (%d+) (%d+)")
  if drawing then ranges[drawing] = { tonumber(least), tonumber(most) } end
end
-- Of Lua's own, which that list leaves out.
counts.defer = 1

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

local function chunks(text, kind, depth)
  local found, level, current = {}, 0, nil
  for row in text:gmatch("[^\n]*\n?") do
    local bare = row:match("^%s*(.-)%s*$")
    if bare:sub(1, 1) == "<" then
      level = level + 1
      if level == depth and bare:match("^<" .. kind) then current = {} end
    end
    if current then current[#current + 1] = row end
    if bare == ">" then
      if current and level == depth then
        found[#found + 1] = table.concat(current)
        current = nil
      end
      level = level - 1
    end
  end
  return found
end

local function word(chunk, key) return chunk:match("\n%s*" .. key .. "%s+([^\r\n]*)") end

local function new_track(chunk)
  local track = { chunk = chunk, guid = chunk:match("{.-}"), values = {}, sends = {}, items = {} }
  for _, item in ipairs(chunks(chunk, "ITEM", 2)) do
    track.items[#track.items + 1] = { chunk = item, guid = word(item, "IGUID") }
  end
  return track
end

local project = { path = PROJECT, tracks = {} }
local other = { path = "another.rpp", tracks = {} }
for _, chunk in ipairs(chunks(read(PROJECT), "TRACK", 2)) do
  project.tracks[#project.tracks + 1] = new_track(chunk)
end
-- Receives name their senders by number; here senders know whom they send to.
for _, track in ipairs(project.tracks) do
  for number in track.chunk:gmatch("\n%s*AUXRECV (%d+)") do
    local from = project.tracks[number + 1]
    from.sends[#from.sends + 1] = { to = track, values = { D_VOL = 0.5 } }
  end
end
local open, active, stored, deferred = { project, other }, project, {}, nil
for key, value in (STORED or ""):gmatch("(%w+)=([^;]*)") do stored["stembridge" .. key] = value end
-- What is asked for, once it is whole.
local rename = os.rename
os.rename = function(from, to)
  if to:match("%.request$") then print("REQUEST " .. read(from):gsub("\n", " ")) end
  return rename(from, to)
end
-- Undo as REAPER has it: the whole project before each step.
local steps, begun, executed = {}, nil, 0
local function copied(value, known)
  if type(value) ~= "table" then return value end
  if not known[value] then
    known[value] = {}
    for key, part in pairs(value) do known[value][copied(key, known)] = copied(part, known) end
  end
  return known[value]
end
local function undo()
  local step = table.remove(steps)
  if not step then return 0 end
  project.tracks = step.tracks
  print("UNDONE " .. step.label)
  return 1
end
local function all_items()
  local found = {}
  for _, track in ipairs(project.tracks) do
    for _, item in ipairs(track.items) do found[#found + 1] = item end
  end
  return found
end
local function of(given) return (given == 0 or given == nil) and active or given end
local function received(track)
  local found = {}
  for _, one in ipairs(project.tracks) do
    for _, send in ipairs(one.sends) do
      if send.to == track then found[#found + 1] = { from = one, values = send.values } end
    end
  end
  return found
end

local api = {
  ShowMessageBox = function(text) print("MESSAGE " .. text:gsub("\n", " ")) end,
  EnumProjects = function(index)
    local one = index == -1 and active or open[index + 1]
    if one then return one, one.path end
  end,
  SelectProjectInstance = function(given) active = given end,
  CountSelectedTracks = function() return #TRACKS end,
  GetSelectedTrack = function(given, index) return of(given).tracks[TRACKS[index + 1]] end,
  CountSelectedMediaItems = function() return tonumber(ITEMS) end,
  GetTrackName = function(track)
    local name = (word(track.chunk, "NAME") or ""):gsub('^(["\'`])(.*)%1$', "%2")
    for index, one in ipairs(project.tracks) do
      if one == track and name == "" then name = "Track " .. index end
    end
    return true, name
  end,
  GetTrackGUID = function(track) return track.guid end,
  CountTracks = function(given) return #of(given).tracks end,
  GetTrack = function(given, index) return of(given).tracks[index + 1] end,
  Main_SaveProject = function(given) print("SAVE " .. of(given).path) end,
  GetSet_LoopTimeRange = function() return tonumber(FROM or 0), tonumber(TO or 0) end,
  GetUserInputs = function() return true, ANSWER end,
  GetExtState = function(section, key) return stored[section .. key] or "" end,
  SetExtState = function(section, key, value) stored[section .. key] = value end,
  GetResourcePath = function() return HOME end,
  time_precise = function() return 12.5 end,
  ExecProcess = function(line, wait)
    print("EXEC " .. wait .. " " .. line)
    executed = executed + 1
    if executed == 2 and MEANWHILE == "mute" then
      steps[#steps + 1] = { label = "Mute item", tracks = copied(project.tracks, {}) }
      local item = all_items()[3]
      item.chunk = item.chunk:gsub("MUTE 0", "MUTE 1")
    elseif executed == 2 and MEANWHILE == "undo" then
      undo()
    end
    if RUN ~= "" then os.execute(RUN) end
    if SWITCH == "yes" then active = other end
    if CLOSE == "yes" then open, active = { other }, other end
  end,
  Undo_BeginBlock = function() begun = copied(project.tracks, {}) end,
  Undo_EndBlock = function(text)
    print("UNDO " .. active.path .. " " .. text)
    steps[#steps + 1] = { label = text, tracks = begun }
  end,
  Undo_CanUndo2 = function() return steps[#steps] and steps[#steps].label end,
  Undo_DoUndo2 = undo,
  CountMediaItems = function() return #all_items() end,
  GetMediaItem = function(_, index) return all_items()[index + 1] end,
  -- REAPER may tell the folder of a file in another way than the project does.
  GetItemStateChunk = function(item)
    return true, (item.chunk:gsub('FILE "?([^"\n]*)"?', 'FILE "' .. (FOLDER or "") .. '%1"'))
  end,
  UpdateArrange = function() end,
  InsertTrackAtIndex = function(index)
    table.insert(active.tracks, index + 1, new_track("<TRACK {}\n>\n"))
  end,
  SetTrackStateChunk = function(track, chunk)
    for key, value in pairs(new_track(chunk)) do track[key] = value end
    return true
  end,
  SetMediaTrackInfo_Value = function(track, key, value) track.values[key] = value return true end,
  CountTrackMediaItems = function(track) return #track.items end,
  GetTrackMediaItem = function(track, index) return track.items[index + 1] end,
  GetSetMediaItemInfo_String = function(item, key)
    assert(key == "GUID")
    return true, item.guid
  end,
  SetItemStateChunk = function(item, chunk) item.chunk = chunk return true end,
  GetTrackNumSends = function(track, category)
    return category == 0 and #track.sends or #received(track)
  end,
  GetTrackSendInfo_Value = function(track, category, index, key)
    local send = category == 0 and track.sends[index + 1] or received(track)[index + 1]
    if key == "P_DESTTRACK" then return send.to end
    if key == "P_SRCTRACK" then return send.from end
    return send.values[key] or 0
  end,
  CreateTrackSend = function(from, to)
    from.sends[#from.sends + 1] = { to = to, values = {} }
    return #from.sends - 1
  end,
  SetTrackSendInfo_Value = function(track, category, index, key, value)
    assert(category == 0)
    track.sends[index + 1].values[key] = value
    return true
  end,
  defer = function(callback) deferred = callback end,
}

reaper = setmetatable({}, { __index = function(_, name)
  local count = counts[name]
  if not count then error("REAPER has no function " .. name, 2) end
  local call = api[name] or error("the stand-in has no function " .. name, 2)
  return function(...)
    if select("#", ...) ~= count then
      error(name .. " takes " .. count .. " arguments, got " .. select("#", ...), 2)
    end
    return call(...)
  end
end })

local keys = {}
for code in (KEYS or ""):gmatch("-?%d+") do keys[#keys + 1] = tonumber(code) end
local drawn = {}
if WINDOW ~= "no" then
  local drawing = {}
  for _, name in ipairs({ "init", "setfont", "set", "rect", "update" }) do drawing[name] = function() end end
  gfx = setmetatable({ mouse_cap = 0, mouse_x = 0, mouse_y = 0, x = 0, y = 0 }, {
    __index = function(_, name)
      local range = ranges[name] or error("REAPER has no gfx." .. name, 2)
      local call = drawing[name] or error("the stand-in has no gfx." .. name, 2)
      return function(...)
        local count = select("#", ...)
        if count < range[1] or count > range[2] then
          error(("gfx.%s takes %d to %d arguments, got %d"):format(name, range[1], range[2], count), 2)
        end
        return call(...)
      end
    end,
  })
  drawing.quit = function() print("CLOSED") end
  local turn = 0
  drawing.getchar = function()
    turn = turn + 1
    local when, y = (CLICK or "0 0"):match("(%d+) (%d+)")
    gfx.mouse_cap, gfx.mouse_y = turn == tonumber(when) and 1 or 0, tonumber(y)
    return table.remove(keys, 1) or 0
  end
  drawing.drawstr = function(text)
    if not drawn[text] then print("DRAWN " .. text) end
    drawn[text] = true
  end
end

dofile(SCRIPT)
local turns = 0
while deferred and turns < 4000 do
  local callback = deferred
  deferred = nil
  callback()
  turns = turns + 1
  if PAUSE then os.execute("sleep " .. PAUSE) end
end
if deferred then print("STILL WAITING") end

for _ = 1, tonumber(UNDO or 0) do undo() end

local depth = 0
for _, track in ipairs(project.tracks) do
  local sends = {}
  for _, send in ipairs(track.sends) do
    sends[#sends + 1] = word(send.to.chunk, "NAME") .. "@" .. (send.values.D_VOL or 0)
  end
  local mutes = {}
  for _, item in ipairs(track.items) do
    for name in item.chunk:gmatch('FILE "?([^"\n]*)') do print("PLAYS " .. name) end
    mutes[#mutes + 1] = word(item.chunk, "MUTE"):sub(1, 1) .. select(2, item.chunk:gsub("\n%s*TAKE[^\n%a]*S?E?L?\n", "\n"))
  end
  print(("TRACK %d %s mute=%d sends=%s items=%s"):format(depth, word(track.chunk, "NAME"),
    track.values.B_MUTE or 0, table.concat(sends, ","), table.concat(mutes, ",")))
  local step = (word(track.chunk, "ISBUS") or "0 0"):match("^%S+%s+(%S+)")
  depth = depth + math.tointeger(track.values.I_FOLDERDEPTH or tonumber(step))
end
print("TRACKS IN ANOTHER TAB " .. #other.tracks)
for _, key in ipairs({ "prompts", "preset", "quality", "place", "mute", "draft" }) do
  print("STORED " .. key .. "=" .. (stored["stembridge" .. key] or ""))
end

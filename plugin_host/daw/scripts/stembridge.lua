-- Separate the selected track with stembridge; for REAPER 6.80 or newer on any system.
--
-- The work is done by the command line on a copy of the project's file, in a process of its own:
-- REAPER stays usable, and the new tracks are put in when it has finished, as one undo step.

local COMMAND = [==[@COMMAND@]==] -- a line without anything of the project's in it
local REQUESTS = [==[@REQUESTS@]==]

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

local track = reaper.GetSelectedTrack(0, 0)
if not track then return message("Select the track to separate first.") end
local _, name = reaper.GetTrackName(track)

local _, project = reaper.EnumProjects(-1)
if project == "" then return message("Save the project first, so that stems have a place.") end
reaper.Main_SaveProject(0, false)

local accepted, answer = reaper.GetUserInputs(
  "stembridge", 2, "Prompts (a; b=text) or preset,Mute the track (yes/no),extrawidth=200,separator=|",
  "preset:band|yes")
if not accepted then return end
local wanted, mute = answer:match("^(.-)|(.*)$")

local range_start, range_end = reaper.GetSet_LoopTimeRange(false, false, 0, 0, false)
local stamp = tostring(math.floor(reaper.time_precise() * 1000))
local base = project:gsub("%.[^.\\/]*$", "")
local copy = base .. " stembridge " .. stamp .. ".rpp"
local request = REQUESTS .. "/reaper-" .. stamp
local log = request .. ".log"

local arguments = { "session", "apply", project, "--track", name, "--out", copy }
local preset = wanted:match("^%s*preset:%s*(.-)%s*$")
if preset then
  arguments[#arguments + 1] = "--preset"
  arguments[#arguments + 1] = preset
else
  for prompt in wanted:gmatch("[^;]+") do
    arguments[#arguments + 1] = "--prompt"
    arguments[#arguments + 1] = (prompt:gsub("^%s+", ""):gsub("%s+$", ""))
  end
end
if range_end > range_start then
  arguments[#arguments + 1] = "--range"
  arguments[#arguments + 1] = string.format("%.6f:%.6f", range_start, range_end)
end
-- What to do goes into a file, one argument a line: names and prompts meet no shell.
local file = io.open(request .. ".part", "wb")
if not file then return message("Cannot write to " .. REQUESTS) end
for _, argument in ipairs(arguments) do
  file:write((argument:gsub("[\r\n]", " ")), "\n")
end
file:close()
os.rename(request .. ".part", request .. ".request")

-- -2: return at once and let it run in the background.
reaper.ExecProcess(COMMAND, -2)

local function known_tracks()
  local known = {}
  for index = 0, reaper.CountTracks(0) - 1 do
    known[reaper.GetTrackGUID(reaper.GetTrack(0, index))] = true
  end
  return known
end

-- The tracks of the copy that the project does not have, as state chunks.
local function new_chunks(text, known)
  local chunks, depth, current = {}, 0, nil
  for row in text:gmatch("[^\n]*\n?") do
    local bare = row:match("^%s*(.-)%s*$")
    if bare:sub(1, 1) == "<" then
      depth = depth + 1
      if depth == 2 and bare:match("^<TRACK") then
        local guid = bare:match("{.-}")
        if guid and not known[guid] then current = {} end
      end
    end
    if current then current[#current + 1] = row end
    if bare == ">" then
      if depth == 2 and current then
        chunks[#chunks + 1] = table.concat(current)
        current = nil
      end
      depth = depth - 1
    end
  end
  return chunks
end

local function finish()
  local text = read(copy)
  local chunks = new_chunks(text, known_tracks())
  reaper.Undo_BeginBlock()
  for _, chunk in ipairs(chunks) do
    local index = reaper.CountTracks(0)
    reaper.InsertTrackAtIndex(index, false)
    reaper.SetTrackStateChunk(reaper.GetTrack(0, index), chunk, false)
  end
  if mute:lower():match("^y") and range_end <= range_start then
    reaper.SetMediaTrackInfo_Value(track, "B_MUTE", 1)
  end
  reaper.Undo_EndBlock("stembridge: stems of " .. name, -1)
  reaper.UpdateArrange()
  os.remove(copy)
  os.remove(log)
end

local function wait()
  local state = read(log)
  if state and state:match("\nexit 0%s*$") then return finish() end
  local code = state and state:match("\nexit (%d+)%s*$")
  if code then
    local told = state:gsub("\nexit %d+%s*$", "")
    os.remove(log)
    return message(told)
  end
  reaper.defer(wait)
end

reaper.defer(wait)

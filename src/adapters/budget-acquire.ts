/**
 * The part of the budget's script that lets calls go: `decide` of `src/governor/share.ts`. It stands behind the others, whose
 * clock, state and window it uses (`budget-script.ts`).
 */
export const acquire = `
local process, knownEpoch, newEpoch = ARGV[6], ARGV[7], ARGV[8]
if state.epoch == '' then
  state.epoch = newEpoch
end
-- Written down and counted once in a while only: who is believed in for a minute is so for a second less.
local believed = tonumber(call('HGET', processesKey, process) or 0)
if state.alive == 0 or believed < now + processLife - processRenewal or believed > now + processLife then
  call('HSET', processesKey, process, now + processLife)
  call('PEXPIRE', processesKey, processLife)
  local all = call('HGETALL', processesKey)
  state.alive = #all / 2
  for i = 1, #all, 2 do
    if tonumber(all[i + 1]) <= now then
      call('HDEL', processesKey, all[i])
      state.alive = state.alive - 1
    end
  end
end
if state.epoch ~= knownEpoch then
  -- The process first tells what it let go that this state does not know.
  save()
  return { state.epoch, now, state.alive, 0, '0' }
end

refill()
-- For each kind, how many lines of each user wait: a line is what waits of one kind and user in one process.
local lines = { interactive = {}, background = {} }
local function countLine(class, user, more)
  local number = (lines[class][user] or 0) + more
  lines[class][user] = number > 0 and number or nil
end
local function isAnyoneWaiting()
  return next(lines.interactive) or next(lines.background)
end
local candidates, open, stored = {}, {}, {}
for i = 9, #ARGV, 3 do
  local class, user = ARGV[i], ARGV[i + 1]
  local key = (class == 'background' and 'B|' or 'I|') .. user .. '|' .. process
  candidates[#candidates + 1] = { class = class, user = user, tokens = tonumber(ARGV[i + 2]), key = key }
  open[key] = 0
end
if state.waitingUntil > now then
  local all = call('HGETALL', waitingKey)
  for i = 1, #all, 2 do
    local key = all[i]
    if tonumber(all[i + 1]) <= now then
      call('HDEL', waitingKey, key)
    else
      local class = string.byte(key) == 66 and 'background' or 'interactive'
      countLine(class, string.match(key, '|([^|]*)|'), 1)
      stored[key] = true
    end
  end
end
local tags, changedTags = {}, {}
if isAnyoneWaiting() then
  local all = call('HGETALL', tagsKey)
  for i = 1, #all, 2 do
    tags[all[i]] = tonumber(all[i + 1])
  end
elseif state.waitingUntil > 0 then
  -- Nobody waits: all begin anew, and only how they stand to each other ever mattered.
  call('DEL', tagsKey, waitingKey)
  state.waitingUntil = 0
end
for _, candidate in ipairs(candidates) do
  local class, user, key = candidate.class, candidate.user, candidate.key
  if not lines.interactive[user] and not lines.background[user] then
    tags[user] = max(tags[user] or 0, state.virtualTime)
    changedTags[user] = true
  end
  if not next(lines[class]) then
    state[class] = max(state[class], state.classTime)
  end
  if open[key] == 0 and not stored[key] then
    countLine(class, user, 1)
  end
  open[key] = open[key] + 1
end
for user, tag in pairs(tags) do
  if tag <= state.virtualTime and not lines.interactive[user] and not lines.background[user] then
    tags[user] = nil
    call('HDEL', tagsKey, user)
  end
end

local skew = limits.tokens / window * skewTime
local left, granted, grantedTokens, again = #candidates, {}, 0, 0
if now < state.pausedUntil then
  again = min(state.pausedUntil - now, longestWait)
  left = 0
end
while left > 0 do
  local class = 'interactive'
  if not next(lines.interactive) or (next(lines.background) and state.background < state.interactive) then
    class = 'background'
  end
  local least
  for user in pairs(lines[class]) do
    local tag = tags[user] or state.virtualTime
    least = least and min(least, tag) or tag
  end
  local place, tag
  for i, candidate in ipairs(candidates) do
    if not candidate.taken and candidate.class == class then
      local own = tags[candidate.user] or state.virtualTime
      if not tag or own < tag then
        place, tag = i, own
      end
    end
  end
  if not place or tag > (least or tag) + skew then
    again = turnWait
    break
  end
  local candidate = candidates[place]
  local tokens = min(candidate.tokens, limits.tokens)
  if state.usedRequests + #granted + 1 > limits.requests or state.usedTokens + grantedTokens + tokens > limits.tokens then
    state.held = 1
    again = min(longestWait, slotTime)
    break
  end
  local missing = max((1 - state.requests) / limits.requests,
    (min(tokens, capacity.tokens) - state.tokens) / limits.tokens)
  if missing > 0 then
    again = min(longestWait, max(1, missing * window))
    break
  end
  grantedTokens = grantedTokens + tokens
  state.requests = state.requests - 1
  state.tokens = state.tokens - tokens
  local charge = max(tokens, limits.tokens / limits.requests)
  state.virtualTime = max(state.virtualTime, tag)
  tags[candidate.user] = tag + charge
  changedTags[candidate.user] = true
  state.classTime = max(state.classTime, state[class])
  state[class] = state[class] + charge / (class == 'background' and 1 or interactiveWeight)
  granted[#granted + 1] = place - 1
  candidate.taken = true
  left = left - 1
  open[candidate.key] = open[candidate.key] - 1
  if open[candidate.key] == 0 then
    countLine(class, candidate.user, -1)
    if stored[candidate.key] then
      call('HDEL', waitingKey, candidate.key)
    end
  end
end
if #granted > 0 then
  count(slot, #granted, grantedTokens)
end
if isAnyoneWaiting() then
  local waitingUntil = now + waitingLife
  local waiting, tagged, untilText = {}, {}, string.format('%.17g', waitingUntil)
  for key, number in pairs(open) do
    if number > 0 then
      waiting[#waiting + 1] = key
      waiting[#waiting + 1] = untilText
    end
  end
  if #waiting > 0 then
    state.waitingUntil = max(state.waitingUntil, waitingUntil)
    call('HSET', waitingKey, unpack(waiting))
    call('PEXPIRE', waitingKey, slotsLife)
  end
  for user in pairs(changedTags) do
    tagged[#tagged + 1] = user
    tagged[#tagged + 1] = tags[user]
  end
  if #tagged > 0 then
    call('HSET', tagsKey, unpack(tagged))
    call('PEXPIRE', tagsKey, slotsLife)
  end
elseif state.waitingUntil > 0 then
  call('DEL', tagsKey, waitingKey)
  state.waitingUntil = 0
end
save()
local reply = { state.epoch, now, state.alive, slot, again > 0 and string.format('%.17g', again) or '0' }
for _, place in ipairs(granted) do
  reply[#reply + 1] = place
end
return reply
`;

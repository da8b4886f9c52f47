/**
 * `decide`, `settle`, `arrive` and `pause` of `src/governor/share.ts` as one script, so that all processes share one state. Redis
 * runs a script as one step. The clock is Redis' own unless a time is given.
 *
 * KEYS: numbers, slots, tags, waiting, processes of one budget.
 * ARGV[1] is what to do, [2] requests, [3] tokens, [4] window, [5] constants as JSON, [6] the time or '', then:
 * `acquire` process, epoch that the process knows or '', a new epoch, candidates as JSON
 * `settle` slot, user, requests, tokens; `arrive` slot, tokens; `pause` milliseconds; `leave` waiting key; `restore`
 * uses as JSON.
 */
export const budgetScript = `
local numbersKey, slotsKey, tagsKey, waitingKey, processesKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local action = ARGV[1]
local limits = { requests = tonumber(ARGV[2]), tokens = tonumber(ARGV[3]) }
local window = tonumber(ARGV[4])
local constants = cjson.decode(ARGV[5])
local now
if ARGV[6] ~= '' then
  now = tonumber(ARGV[6])
else
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local slotTime = window / constants.slotsPerWindow
local slot = math.floor(now / slotTime)
local span = constants.slotsPerWindow + constants.guardSlots
local kinds = { 'requests', 'tokens' }
local capacity = {
  requests = math.max(1, limits.requests * constants.burstShare),
  tokens = limits.tokens * constants.burstShare,
}
local start = {
  requests = math.max(1, capacity.requests * constants.startShare),
  tokens = capacity.tokens * constants.startShare,
}
local function text(number)
  return string.format('%.17g', number)
end
local function readHash(key)
  local flat = redis.call('HGETALL', key)
  local hash = {}
  for i = 1, #flat, 2 do
    hash[flat[i]] = flat[i + 1]
  end
  return hash
end

local stored = readHash(numbersKey)
local function number(name, fallback)
  return tonumber(stored[name] or fallback)
end
local state = {
  requests = number('requests', start.requests),
  tokens = number('tokens', start.tokens),
  decidedAt = number('decidedAt', now),
  held = stored.held == '1',
  pausedUntil = number('pausedUntil', 0),
  virtualTime = number('virtualTime', 0),
  classTime = number('classTime', 0),
  interactive = number('interactive', 0),
  background = number('background', 0),
}

local slots = { requests = {}, tokens = {} }
local used = { requests = 0, tokens = 0 }
for field, value in pairs(readHash(slotsKey)) do
  local place = tonumber(string.sub(field, 2))
  if place < slot - span + 1 then
    redis.call('HDEL', slotsKey, field)
  else
    local kind = string.sub(field, 1, 1) == 'r' and 'requests' or 'tokens'
    slots[kind][place] = tonumber(value)
    used[kind] = used[kind] + tonumber(value)
  end
end
local function count(place, kind, value)
  local before = slots[kind][place] or 0
  local after = math.max(0, before + value)
  slots[kind][place] = after
  used[kind] = used[kind] + after - before
  redis.call('HSET', slotsKey, string.sub(kind, 1, 1) .. string.format('%d', place), text(after))
end

local function rate(kind)
  local free = limits[kind] - used[kind]
  local least = limits[kind] / (span * slotTime)
  for ahead = 1, span do
    least = math.min(least, free / (ahead * slotTime))
    free = free + (slots[kind][slot - span + ahead] or 0)
  end
  return math.max(0, least)
end
local function refill()
  local elapsed = math.max(0, now - state.decidedAt)
  if not state.held and now >= state.pausedUntil and elapsed > 0 then
    for _, kind in ipairs(kinds) do
      state[kind] = math.min(capacity[kind], state[kind] + elapsed * rate(kind))
    end
  end
  state.held = now < state.pausedUntil
  state.decidedAt = math.max(now, state.decidedAt)
end

local function save()
  redis.call('HSET', numbersKey, 'requests', text(state.requests), 'tokens', text(state.tokens),
    'decidedAt', text(state.decidedAt), 'held', state.held and '1' or '0', 'pausedUntil', text(state.pausedUntil),
    'virtualTime', text(state.virtualTime), 'classTime', text(state.classTime),
    'interactive', text(state.interactive), 'background', text(state.background))
  local life = math.ceil(math.max(window * 2, state.pausedUntil - now + window))
  for _, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, life)
  end
end

if action == 'restore' then
  for _, use in ipairs(cjson.decode(ARGV[7])) do
    count(use[1], 'requests', use[2])
    count(use[1], 'tokens', use[3])
  end
  save()
  return 1
end
if action == 'pause' then
  state.pausedUntil = math.max(state.pausedUntil, now + tonumber(ARGV[7]))
  state.requests = math.min(state.requests, start.requests)
  state.tokens = math.min(state.tokens, start.tokens)
  save()
  return 1
end
if action == 'leave' then
  redis.call('HDEL', waitingKey, ARGV[7])
  return 1
end
if action == 'arrive' then
  local place, tokens = tonumber(ARGV[7]), tonumber(ARGV[8])
  if place < slot then
    if place > slot - span then
      count(place, 'requests', -1)
      count(place, 'tokens', -tokens)
    end
    count(slot, 'requests', 1)
    count(slot, 'tokens', tokens)
    save()
  end
  return math.max(slot, place)
end
if action == 'settle' then
  refill()
  local place, user, requests, tokens = tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10])
  if slots.requests[place] ~= nil or slots.tokens[place] ~= nil then
    count(place, 'requests', requests)
    count(place, 'tokens', tokens)
    state.requests = math.min(capacity.requests, state.requests - requests)
    state.tokens = math.min(capacity.tokens, state.tokens - tokens)
  end
  local tag = redis.call('HGET', tagsKey, user)
  if tag then
    redis.call('HSET', tagsKey, user, text(tonumber(tag) + tokens))
  end
  save()
  return 1
end

local process, knownEpoch, newEpoch = ARGV[7], ARGV[8], ARGV[9]
local candidates = cjson.decode(ARGV[10])
local epoch = stored.epoch
if epoch == nil then
  epoch = newEpoch
  redis.call('HSET', numbersKey, 'epoch', epoch)
end
redis.call('HSET', processesKey, process, text(now + constants.processLife))
local alive = 0
for other, untilTime in pairs(readHash(processesKey)) do
  if tonumber(untilTime) <= now then
    redis.call('HDEL', processesKey, other)
  else
    alive = alive + 1
  end
end
if epoch ~= knownEpoch then
  -- The process first tells what it let go that this state does not know.
  save()
  return { epoch, text(now), alive, 0, 0 }
end

refill()
local tags = {}
for user, tag in pairs(readHash(tagsKey)) do
  tags[user] = tonumber(tag)
end
local changedTags = {}
local waiting = {}
local waitingUsers = {}
local had = {}
local function readWaiting(key)
  return string.sub(key, 1, 1) == 'B' and 'background' or 'interactive', string.match(key, '^.|([^|]*)|')
end
for key, untilTime in pairs(readHash(waitingKey)) do
  if tonumber(untilTime) <= now then
    redis.call('HDEL', waitingKey, key)
  else
    local class, user = readWaiting(key)
    waiting[key] = true
    waitingUsers[user] = true
    had[class] = true
  end
end
if next(waiting) == nil then
  for _, tag in pairs(tags) do
    state.virtualTime = math.max(state.virtualTime, tag)
  end
  tags = {}
  redis.call('DEL', tagsKey)
end
local function keyOf(candidate)
  return (candidate.background and 'B' or 'I') .. '|' .. candidate.userId .. '|' .. process
end
for _, candidate in ipairs(candidates) do
  local user = candidate.userId
  if not waitingUsers[user] then
    waitingUsers[user] = true
    tags[user] = math.max(tags[user] or 0, state.virtualTime)
    changedTags[user] = true
  end
  local class = candidate.background and 'background' or 'interactive'
  if not had[class] then
    had[class] = true
    state[class] = math.max(state[class], state.classTime)
  end
  waiting[keyOf(candidate)] = true
end
for user, tag in pairs(tags) do
  if tag <= state.virtualTime and not waitingUsers[user] then
    redis.call('HDEL', tagsKey, user)
    tags[user] = nil
  end
end

local skew = limits.tokens / window * constants.skewTime
local left = #candidates
local taken = {}
local granted = {}
local wait = 0
if now < state.pausedUntil then
  wait = math.min(state.pausedUntil - now, constants.longestWait)
else
  while left > 0 do
    local least = {}
    for key in pairs(waiting) do
      local class, user = readWaiting(key)
      local tag = tags[user] or state.virtualTime
      if least[class] == nil or tag < least[class] then
        least[class] = tag
      end
    end
    local class = 'interactive'
    if least.interactive == nil or (least.background ~= nil and state.background < state.interactive) then
      class = 'background'
    end
    local place, tag
    for i, candidate in ipairs(candidates) do
      if not taken[i] and candidate.background == (class == 'background') then
        local own = tags[candidate.userId] or state.virtualTime
        if tag == nil or own < tag then
          place, tag = i, own
        end
      end
    end
    if place == nil or tag > (least[class] or tag) + skew then
      wait = constants.turnWait
      break
    end
    local candidate = candidates[place]
    local tokens = math.min(candidate.tokens, limits.tokens)
    if used.requests + 1 > limits.requests or used.tokens + tokens > limits.tokens then
      state.held = true
      wait = math.min(constants.longestWait, slotTime)
      break
    end
    local missing = math.max((1 - state.requests) / limits.requests,
      (math.min(tokens, capacity.tokens) - state.tokens) / limits.tokens)
    if missing > 0 then
      wait = math.min(constants.longestWait, math.max(1, missing * window))
      break
    end
    count(slot, 'requests', 1)
    count(slot, 'tokens', tokens)
    state.requests = state.requests - 1
    state.tokens = state.tokens - tokens
    local charge = math.max(tokens, limits.tokens / limits.requests)
    state.virtualTime = math.max(state.virtualTime, tag)
    tags[candidate.userId] = tag + charge
    changedTags[candidate.userId] = true
    state.classTime = math.max(state.classTime, state[class])
    state[class] = state[class] + charge / (class == 'background' and 1 or constants.interactiveWeight)
    granted[#granted + 1] = place - 1
    taken[place] = true
    left = left - 1
    local more = false
    for i, other in ipairs(candidates) do
      if not taken[i] and other.userId == candidate.userId and other.background == candidate.background then
        more = true
      end
    end
    if not more then
      waiting[keyOf(candidate)] = nil
      redis.call('HDEL', waitingKey, keyOf(candidate))
    end
  end
end
for i, candidate in ipairs(candidates) do
  if not taken[i] then
    redis.call('HSET', waitingKey, keyOf(candidate), text(now + constants.waitingLife))
  end
end
for user in pairs(changedTags) do
  redis.call('HSET', tagsKey, user, text(tags[user]))
end
save()
local reply = { epoch, text(now), alive, slot, text(wait) }
for _, place in ipairs(granted) do
  reply[#reply + 1] = place
end
return reply
`;

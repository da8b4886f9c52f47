import { acquire } from './budget-acquire.ts';

/**
 * `decide`, `settle`, `arrive` and `pause` of `src/governor/share.ts` as one script, so that all processes share one state. Redis
 * runs a script as one step, and nothing else meanwhile: a call reads and writes only what its action needs.
 *
 * KEYS: state, slots, tags, waiting, processes of one budget.
 * - state: all single numbers and the epoch, packed
 * - slots: what was let go in each slot of the window, two packed numbers at the slot's number modulo their count
 * - tags, waiting: as in `share.ts`; both are empty while nobody waits, because tags matter to those only
 * - processes: until when each is believed to be there
 *
 * ARGV[1] is what to do, [2] requests, [3] tokens, [4] window, [5] the time or '' for Redis' own clock, then:
 * `acquire` process, epoch that the process knows or '', a new epoch, and `interactive` or `background`, user and tokens of
 * each candidate; `settle` slot, user, requests, tokens; `arrive` slot, tokens; `pause` milliseconds; `leave` waiting key;
 * `restore` slot, requests and tokens of each use.
 * @param constants of `share.ts`, which become part of the text: nothing has to be sent or read for them
 */
export function createBudgetScript(constants: Readonly<Record<string, number>>): string {
  const lines = Object.entries(constants).map(([name, value]) => `local ${name} = ${value}`);
  return `${lines.join('\n')}${common}${lesserActions}${acquire}`;
}

/** The clock, the state and the window; all actions rest on these. */
const common = `
local stateKey, slotsKey, tagsKey, waitingKey, processesKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local call, max, min = redis.call, math.max, math.min
local action = ARGV[1]
if action == 'leave' then
  return call('HDEL', waitingKey, ARGV[6])
end
local limits = { requests = tonumber(ARGV[2]), tokens = tonumber(ARGV[3]) }
local window = tonumber(ARGV[4])
local now = tonumber(ARGV[5])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local slotTime = window / slotsPerWindow
local span = slotsPerWindow + guardSlots
local slot = math.floor(now / slotTime)
if action == 'arrive' and tonumber(ARGV[6]) >= slot then
  return tonumber(ARGV[6])
end
local capacity = { requests = max(1, limits.requests * burstShare), tokens = limits.tokens * burstShare }
local start = { requests = max(1, capacity.requests * startShare), tokens = capacity.tokens * startShare }

-- What was counted in the newest slot is part of the state; all earlier slots are cells of one string. Where nothing was
-- counted yet, there are -1 requests.
local cellSize, unused = 16, struct.pack('<dd', -1, 0)
local slotsLife = window * 2
local stateFormat = '<dddddddddddddddds'
local function newState(epoch, requests, tokens)
  return {
    requests = start.requests, tokens = start.tokens, decidedAt = now, held = 0, pausedUntil = 0, virtualTime = 0,
    classTime = 0, interactive = 0, background = 0, usedRequests = max(0, requests), usedTokens = tokens,
    newest = slot, newestRequests = requests, newestTokens = tokens, waitingUntil = 0, alive = 0, epoch = epoch,
  }
end
local state = newState('', -1, 0)
local packed = call('GET', stateKey)
if packed then
  state.requests, state.tokens, state.decidedAt, state.held, state.pausedUntil, state.virtualTime, state.classTime,
    state.interactive, state.background, state.usedRequests, state.usedTokens, state.newest, state.newestRequests,
    state.newestTokens, state.waitingUntil, state.alive, state.epoch = struct.unpack(stateFormat, packed)
end
local isBack = slot <= state.newest - span
if isBack then
  -- The clock went back by more than a window: all that was used counts from now on, and all else begins anew.
  state = newState(state.epoch, state.usedRequests, state.usedTokens)
end
if isBack or not packed then
  call('SET', slotsKey, string.rep(unused, span), 'PX', slotsLife)
  call('DEL', tagsKey, waitingKey)
end
local function save()
  local life = math.ceil(max(window * 2, state.pausedUntil - now + window))
  call('SET', stateKey, struct.pack(stateFormat, state.requests, state.tokens, state.decidedAt, state.held,
    state.pausedUntil, state.virtualTime, state.classTime, state.interactive, state.background, state.usedRequests,
    state.usedTokens, state.newest, state.newestRequests, state.newestTokens, state.waitingUntil, state.alive,
    state.epoch), 'PX', life)
end

-- Requests and tokens of each cell in turn.
local slots
local function readSlots()
  local format = '<' .. string.rep('dd', span)
  local text = call('GET', slotsKey)
  slots = { struct.unpack(format, text and #text == span * cellSize and text or string.rep(unused, span)) }
  return format
end
local function setCell(place, requests, tokens)
  local at = place % span * 2
  slots[at + 1], slots[at + 2] = requests, tokens
end
-- Lets go of the places that the window has left. The sums are made anew with that, so that no error lasts.
local function moveWindow()
  if slot <= state.newest then
    return
  end
  local format = readSlots()
  setCell(state.newest, state.newestRequests, state.newestTokens)
  for place = max(state.newest, slot - span) + 1, slot do
    setCell(place, -1, 0)
  end
  call('SET', slotsKey, struct.pack(format, unpack(slots, 1, 2 * span)), 'PX', slotsLife)
  state.newest, state.newestRequests, state.newestTokens = slot, -1, 0
  local requests, tokens = 0, 0
  for at = 1, 2 * span, 2 do
    requests = requests + max(0, slots[at])
    tokens = tokens + slots[at + 1]
  end
  state.usedRequests, state.usedTokens = requests, tokens
end
-- Counts more or less at a place; what another clock calls the future is counted at the newest place. A correction is for a
-- place where something was counted before. Tells whether the place is there.
local function count(place, requests, tokens, isCorrection)
  if place <= state.newest - span then
    return false
  end
  local beforeRequests, beforeTokens = state.newestRequests, state.newestTokens
  local from = place % span * cellSize
  if place < state.newest then
    local cell = call('GETRANGE', slotsKey, from, from + cellSize - 1)
    beforeRequests, beforeTokens = struct.unpack('<dd', #cell == cellSize and cell or unused)
  end
  if isCorrection and beforeRequests < 0 then
    return false
  end
  beforeRequests = max(0, beforeRequests)
  local afterRequests, afterTokens = max(0, beforeRequests + requests), max(0, beforeTokens + tokens)
  state.usedRequests = state.usedRequests + afterRequests - beforeRequests
  state.usedTokens = state.usedTokens + afterTokens - beforeTokens
  if place < state.newest then
    call('SETRANGE', slotsKey, from, struct.pack('<dd', afterRequests, afterTokens))
  else
    state.newestRequests, state.newestTokens = afterRequests, afterTokens
  end
  return true
end

-- \`kind\` is 1 for requests and 2 for tokens.
local function rate(limit, used, kind)
  local free, slotTime = limit - used, slotTime
  if free <= 0 then
    return 0
  end
  if not slots then
    readSlots()
  end
  local slots, least, last = slots, limit / (span * slotTime), 2 * span
  -- A clock that went back a little finds places that were let go of already.
  local gone = state.newest - slot
  local at = (slot + gone + 1) % span * 2 + kind
  for ahead = gone + 1, span do
    local pace = free / (ahead * slotTime)
    if pace < least then
      least = pace
    end
    local cell = slots[at]
    if cell > 0 then
      free = free + cell
    end
    at = at + 2
    if at > last then
      at = kind
    end
  end
  return least
end
local function grown(level, most, elapsed, limit, used, kind)
  -- The rate is no less than what is free over all of the span: mostly that fills the level, and no slot is read.
  if level + elapsed * (max(0, limit - used) / (span * slotTime)) >= most then
    return most
  end
  return min(most, level + elapsed * rate(limit, used, kind))
end
local function refill()
  local elapsed = max(0, now - state.decidedAt)
  if state.held == 0 and now >= state.pausedUntil and elapsed > 0 then
    state.requests = grown(state.requests, capacity.requests, elapsed, limits.requests, state.usedRequests, 1)
    state.tokens = grown(state.tokens, capacity.tokens, elapsed, limits.tokens, state.usedTokens, 2)
  end
  state.held = now < state.pausedUntil and 1 or 0
  state.decidedAt = max(now, state.decidedAt)
end
`;

const lesserActions = `
if action == 'pause' then
  state.pausedUntil = max(state.pausedUntil, now + tonumber(ARGV[6]))
  state.requests = min(state.requests, start.requests)
  state.tokens = min(state.tokens, start.tokens)
  save()
  return 1
end
moveWindow()
if action == 'restore' then
  for i = 6, #ARGV, 3 do
    count(tonumber(ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]))
  end
  save()
  return 1
end
if action == 'arrive' then
  local place, tokens = tonumber(ARGV[6]), tonumber(ARGV[7])
  count(place, -1, -tokens)
  count(slot, 1, tokens)
  save()
  return slot
end
if action == 'settle' then
  refill()
  local place, user, requests, tokens = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
  if count(place, requests, tokens, true) then
    state.requests = min(capacity.requests, state.requests - requests)
    state.tokens = min(capacity.tokens, state.tokens - tokens)
  end
  if state.waitingUntil > 0 then
    local tag = call('HGET', tagsKey, user)
    if tag then
      call('HSET', tagsKey, user, tonumber(tag) + tokens)
    end
  end
  save()
  return 1
end
`;

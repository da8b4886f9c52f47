/**
 * How the calls of one model are shared out: a budget that no window of time exceeds, and fair turns between users.
 * `src/adapters/budget-script.ts` is the same in Lua, for all processes at once; a test holds the two together.
 */

/** What a provider allows of one model. */
export interface Limits {
  /** Requests in a window. */
  requests: number;
  /** Tokens in a window, of prompts and answers together. */
  tokens: number;
  /** Length of the window, in milliseconds: a minute with every provider known. */
  window: number;
}

/** A call that waits for its turn. */
export interface Candidate {
  userId: string;
  background: boolean;
  /** Tokens that it will probably use. */
  tokens: number;
}

export interface Decision {
  /** Places of the candidates that may go now, in the order of their turns. */
  granted: number[];
  /** Milliseconds after which to ask again for those that are left. */
  wait: number;
  /** Where the grants are counted, for their settlement. */
  slot: number;
  /** Milliseconds after the decision in which a call may arrive and still be counted long enough where it is. */
  grace: number;
}

/** Everything that a decision rests on. Times are in milliseconds. */
export interface ShareState {
  slots: Map<number, { requests: number; tokens: number }>;
  /** What may go at once; grows at the rate at which the window lets go of what was used before. */
  level: { requests: number; tokens: number };
  decidedAt: number;
  /** Whether the last decision met a full window: nothing is saved up then. */
  held: boolean;
  pausedUntil: number;
  /** Place of the newest turn: where users begin who come back. */
  virtualTime: number;
  classTime: number;
  classTags: { interactive: number; background: number };
  /** Where each user stands: tokens served, counted from `virtualTime` when the user came. */
  tags: Map<string, number>;
  /** Who waits in which process, and until when that is believed. */
  waiting: Map<string, number>;
}

export const slotsPerWindow = 120;
/**
 * Slots beyond the window that count as used still: one because a slot has a length, one so that calls that arrive by the end
 * of the slot after that of their grant need no correction.
 */
export const guardSlots = 2;
/**
 * Part of a window after which a grant is too old to be used, and after which a call that left counts as arrived. Both
 * together are less than the window: no place is free again before it is known when its call arrived.
 */
export const unseenPart = 0.25;
/** Part of a window's budget that an idle model lets go at once. */
export const burstShare = 0.5;
/** Part of the burst that a state begins with: it may be new because a store lost the old one. */
export const startShare = 0.1;
/** How much more interactive work gets than background work when both wait. */
export const interactiveWeight = 9;
/** How long a process is believed to wait after it last asked, in milliseconds. */
export const waitingLife = 400;
/** When to look again while it is another process's turn, in milliseconds. */
export const turnWait = 15;
export const longestWait = 100;
/** How far a user may get ahead of one in another process, as milliseconds of the whole budget. */
export const skewTime = 200;

export function createShareState(limits: Limits, now: number): ShareState {
  return {
    slots: new Map(),
    level: startLevel(limits),
    decidedAt: now,
    held: false,
    pausedUntil: 0,
    virtualTime: 0,
    classTime: 0,
    classTags: { interactive: 0, background: 0 },
    tags: new Map(),
    waiting: new Map(),
  };
}

/** The slot of a time. */
export function slotAt(limits: Limits, now: number): number {
  return Math.floor(now / (limits.window / slotsPerWindow));
}

/** How long after a decision a call may arrive so that its place is counted for a window from then on anyway. */
export function graceOf(limits: Limits, slot: number, now: number): number {
  return (slot + guardSlots) * (limits.window / slotsPerWindow) - now;
}

/**
 * Decides who of a process's waiting calls may go. Within the budget it is fair queueing by start time (Goyal, Vin and
 * Cheng, 1996): the user who was served least since the wait began is next. That gives every waiting user what deficit
 * round robin gives, to within one call, but needs one number a user instead of a list that somebody walks, so that
 * processes can share it.
 */
export function decide(
  state: ShareState,
  limits: Limits,
  now: number,
  process: string,
  candidates: readonly Candidate[],
): Decision {
  const slot = slotAt(limits, now);
  refill(state, limits, now, slot);
  register(state, now, process, candidates);
  const used = usedIn(state);
  const skew = (limits.tokens / limits.window) * skewTime;
  const granted: number[] = [];
  const left = new Set(candidates.keys());
  const decision = (wait: number): Decision => ({ granted, wait, slot, grace: graceOf(limits, slot, now) });

  if (now < state.pausedUntil) {
    return decision(Math.min(state.pausedUntil - now, longestWait));
  }
  while (left.size > 0) {
    const least = leastTags(state);
    const background = choosesBackground(state, least);
    const next = nextCandidate(state, candidates, left, background);
    const floor = background ? least.background : least.interactive;
    if (next === null || next.tag > (floor ?? next.tag) + skew) {
      return decision(turnWait);
    }
    const { place, candidate, tag } = next;
    const tokens = Math.min(candidate.tokens, limits.tokens);
    const wait = shortage(state, limits, used, tokens);
    if (wait > 0) {
      return decision(wait);
    }
    addUse(state, slot, { requests: 1, tokens });
    used.requests += 1;
    used.tokens += tokens;
    state.level.requests -= 1;
    state.level.tokens -= tokens;
    // A short call costs its share of the requests, where these are scarcer than tokens.
    const charge = Math.max(tokens, limits.tokens / limits.requests);
    state.virtualTime = Math.max(state.virtualTime, tag);
    state.tags.set(candidate.userId, tag + charge);
    const kind = background ? 'background' : 'interactive';
    state.classTime = Math.max(state.classTime, state.classTags[kind]);
    state.classTags[kind] += charge / (background ? 1 : interactiveWeight);
    granted.push(place);
    left.delete(place);
    if (![...left].some((other) => isSameLine(candidates[other], candidate))) {
      state.waiting.delete(waitingKey(candidate, process));
    }
  }
  return decision(0);
}

/** Corrects what a grant was counted as, once it is known what it used. */
export function settle(
  state: ShareState,
  limits: Limits,
  now: number,
  grant: { slot: number; userId: string; requests: number; tokens: number },
): void {
  refill(state, limits, now, slotAt(limits, now));
  if (state.slots.has(grant.slot)) {
    addUse(state, grant.slot, grant);
    state.level.requests = Math.min(capacity(limits).requests, state.level.requests - grant.requests);
    state.level.tokens = Math.min(capacity(limits).tokens, state.level.tokens - grant.tokens);
  }
  const tag = state.tags.get(grant.userId);
  if (tag !== undefined) {
    state.tags.set(grant.userId, tag + grant.tokens);
  }
}

/**
 * Counts a grant from now on, because its call may have reached the provider as late as now. A provider counts at arrival:
 * a place that were free a window after its grant would be free too early.
 * @returns where it is counted from now on
 */
export function arrive(
  state: ShareState,
  limits: Limits,
  now: number,
  place: { slot: number; tokens: number },
): number {
  const slot = slotAt(limits, now);
  if (place.slot < slot) {
    if (place.slot > slot - slotsPerWindow - guardSlots) {
      addUse(state, place.slot, { requests: -1, tokens: -place.tokens });
    }
    addUse(state, slot, { requests: 1, tokens: place.tokens });
  }
  return Math.max(slot, place.slot);
}

/** Lets nobody go until then: the provider asked for it. What was saved up is gone: the provider knows better. */
export function pause(state: ShareState, limits: Limits, until: number): void {
  state.pausedUntil = Math.max(state.pausedUntil, until);
  const start = startLevel(limits);
  state.level.requests = Math.min(state.level.requests, start.requests);
  state.level.tokens = Math.min(state.level.tokens, start.tokens);
}

/** A process has no call of that user and kind any more. */
export function leave(state: ShareState, process: string, who: Pick<Candidate, 'userId' | 'background'>): void {
  state.waiting.delete(waitingKey(who, process));
}

/** Counts what was let go elsewhere, or less of it. */
export function addUse(state: ShareState, slot: number, use: { requests: number; tokens: number }): void {
  const counted = state.slots.get(slot) ?? { requests: 0, tokens: 0 };
  state.slots.set(slot, {
    requests: Math.max(0, counted.requests + use.requests),
    tokens: Math.max(0, counted.tokens + use.tokens),
  });
}

export function waitingKey(who: Pick<Candidate, 'userId' | 'background'>, process: string): string {
  return `${who.background ? 'B' : 'I'}|${who.userId}|${process}`;
}

function isSameLine(one: Candidate | undefined, other: Candidate): boolean {
  return one?.userId === other.userId && one.background === other.background;
}

function capacity(limits: Limits): { requests: number; tokens: number } {
  return { requests: Math.max(1, limits.requests * burstShare), tokens: limits.tokens * burstShare };
}

function startLevel(limits: Limits): { requests: number; tokens: number } {
  const most = capacity(limits);
  return { requests: Math.max(1, most.requests * startShare), tokens: most.tokens * startShare };
}

/** Moves the window on and lets the level grow. */
function refill(state: ShareState, limits: Limits, now: number, slot: number): void {
  const oldest = slot - slotsPerWindow - guardSlots + 1;
  for (const past of [...state.slots.keys()]) {
    if (past < oldest) {
      state.slots.delete(past);
    }
  }
  const elapsed = Math.max(0, now - state.decidedAt);
  if (!state.held && now >= state.pausedUntil && elapsed > 0) {
    const most = capacity(limits);
    const used = usedIn(state);
    for (const kind of ['requests', 'tokens'] as const) {
      const grown = state.level[kind] + elapsed * rate(state, limits, slot, used, kind);
      state.level[kind] = Math.min(most[kind], grown);
    }
  }
  state.held = now < state.pausedUntil;
  state.decidedAt = Math.max(now, state.decidedAt);
}

/**
 * The fastest steady pace, per millisecond, that meets no full window: what is free now and what the window lets go
 * by then must last for every stretch of time ahead.
 */
function rate(
  state: ShareState,
  limits: Limits,
  slot: number,
  used: { requests: number; tokens: number },
  kind: 'requests' | 'tokens',
): number {
  const slotTime = limits.window / slotsPerWindow;
  const span = slotsPerWindow + guardSlots;
  let free = limits[kind] - used[kind];
  let least = limits[kind] / (span * slotTime);
  for (let ahead = 1; ahead <= span; ahead += 1) {
    least = Math.min(least, free / (ahead * slotTime));
    free += state.slots.get(slot - span + ahead)?.[kind] ?? 0;
  }
  return Math.max(0, least);
}

function usedIn(state: ShareState): { requests: number; tokens: number } {
  const used = { requests: 0, tokens: 0 };
  for (const { requests, tokens } of state.slots.values()) {
    used.requests += requests;
    used.tokens += tokens;
  }
  return used;
}

/** Notes who waits; who comes anew begins at the place of the newest turn, with neither debt nor savings. */
function register(state: ShareState, now: number, process: string, candidates: readonly Candidate[]): void {
  const waitingUsers = new Set<string>();
  const had = { interactive: false, background: false };
  for (const [key, until] of [...state.waiting]) {
    if (until <= now) {
      state.waiting.delete(key);
    } else {
      waitingUsers.add(key.split('|')[1] ?? '');
      had[key.startsWith('B') ? 'background' : 'interactive'] = true;
    }
  }
  if (waitingUsers.size === 0) {
    // Nobody waited: who went ahead took nothing from anyone, and all begin anew.
    state.virtualTime = Math.max(state.virtualTime, ...state.tags.values());
    state.tags.clear();
  }
  for (const candidate of candidates) {
    if (!waitingUsers.has(candidate.userId)) {
      waitingUsers.add(candidate.userId);
      state.tags.set(candidate.userId, Math.max(state.tags.get(candidate.userId) ?? 0, state.virtualTime));
    }
    const kind = candidate.background ? 'background' : 'interactive';
    if (!had[kind]) {
      had[kind] = true;
      state.classTags[kind] = Math.max(state.classTags[kind], state.classTime);
    }
    state.waiting.set(waitingKey(candidate, process), now + waitingLife);
  }
  for (const [userId, tag] of [...state.tags]) {
    if (tag <= state.virtualTime && !waitingUsers.has(userId)) {
      state.tags.delete(userId);
    }
  }
}

/** The smallest tag of all who wait, of each kind, over all processes. */
function leastTags(state: ShareState): { interactive: number | null; background: number | null } {
  const least: { interactive: number | null; background: number | null } = { interactive: null, background: null };
  for (const key of state.waiting.keys()) {
    const [kind, userId = ''] = key.split('|');
    const tag = state.tags.get(userId) ?? state.virtualTime;
    const member = kind === 'B' ? 'background' : 'interactive';
    least[member] = Math.min(least[member] ?? tag, tag);
  }
  return least;
}

function choosesBackground(state: ShareState, least: ReturnType<typeof leastTags>): boolean {
  if (least.interactive === null || least.background === null) {
    return least.interactive === null;
  }
  return state.classTags.background < state.classTags.interactive;
}

function nextCandidate(
  state: ShareState,
  candidates: readonly Candidate[],
  left: ReadonlySet<number>,
  background: boolean,
): { place: number; candidate: Candidate; tag: number } | null {
  let next: { place: number; candidate: Candidate; tag: number } | null = null;
  for (const place of left) {
    const candidate = candidates[place];
    if (candidate !== undefined && candidate.background === background) {
      const tag = state.tags.get(candidate.userId) ?? state.virtualTime;
      if (next === null || tag < next.tag) {
        next = { place, candidate, tag };
      }
    }
  }
  return next;
}

/** Milliseconds until the budget may have room; 0 when it has. A call greater than the level can get takes it in advance. */
function shortage(
  state: ShareState,
  limits: Limits,
  used: { requests: number; tokens: number },
  tokens: number,
): number {
  if (used.requests + 1 > limits.requests || used.tokens + tokens > limits.tokens) {
    state.held = true;
    return Math.min(longestWait, limits.window / slotsPerWindow);
  }
  const missing = Math.max(
    (1 - state.level.requests) / limits.requests,
    (Math.min(tokens, capacity(limits).tokens) - state.level.tokens) / limits.tokens,
  );
  return missing <= 0 ? 0 : Math.min(longestWait, Math.max(1, missing * limits.window));
}

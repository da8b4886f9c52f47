import { z } from 'zod';
import { type ChatRequest, type Message, ProtocolError, type Reply } from './protocol.ts';

const delay = z.number().min(0).max(600_000);

export const behaviourSchema = z.strictObject({
  /** Before the first byte of an answer. */
  delayMs: delay.optional(),
  /** Between the tokens of a streamed answer. */
  tokenDelayMs: delay.optional(),
  /** Fails the next `count` requests, of this model and path (`/chat/completions`, `/embeddings`) where given. */
  failNext: z
    .strictObject({
      status: z.number().int().min(400).max(599),
      count: z.number().int().min(1),
      retryAfterSeconds: z.number().min(0).optional(),
      model: z.string().optional(),
      path: z.string().optional(),
    })
    .optional(),
  /** Refuses with 429 what exceeds this in the last 60 seconds. */
  rateLimit: z.strictObject({ requestsPerMinute: z.number().int().min(1) }).optional(),
  /** Takes requests and never answers. */
  hang: z.boolean().optional(),
  /** Breaks the connection of a streamed answer after this many tokens. */
  cutAfterTokens: z.number().int().min(0).optional(),
});

/** How the model misbehaves; what is left out is as it should be. */
export type Behaviour = z.infer<typeof behaviourSchema>;

export const scriptSchema = z.array(
  z.strictObject({
    /** A part of the last user message; the empty one meets every message. */
    match: z.string(),
    /** A part of the system messages, to tell a planner's request from an agent's. */
    matchSystem: z.string().optional(),
    /** The name the request asked for. */
    model: z.string().optional(),
    reply: z.union([z.string(), z.array(z.strictObject({ name: z.string(), arguments: z.unknown() }))]).optional(),
    /** Answers with this error instead; `reply` is its message then. */
    status: z.number().int().min(400).max(599).optional(),
    retryAfterSeconds: z.number().min(0).optional(),
    delayMs: delay.optional(),
    tokenDelayMs: delay.optional(),
    /** How often the entry is used before the next one that matches gets its turn; once unless given. */
    times: z.number().int().min(1).optional(),
  }),
);

/** What the model is told to answer, used in the order given. */
export type Script = z.infer<typeof scriptSchema>;
export type ScriptEntry = Script[number];

/** What an admin told the model to do, and how much of it is used up. */
export interface Director {
  behaviour(): Behaviour;
  setBehaviour(behaviour: Behaviour): void;
  setScript(script: Script): void;
  reset(): void;
  /** @throws ProtocolError when this request is to fail or exceeds the rate limit. */
  admit(path: string, model: string): void;
  takeScriptEntry(request: ChatRequest, messages: readonly Message[]): ScriptEntry | null;
}

/** Makes a director who asks for nothing unusual yet; `now` is in milliseconds and never goes back. */
export function createDirector(now: () => number = () => performance.now()): Director {
  let behaviour: Behaviour = {};
  let failuresLeft = 0;
  let script: { entry: ScriptEntry; left: number }[] = [];
  let admittedAt: number[] = [];

  const failWhenTold = (path: string, model: string): void => {
    const failure = behaviour.failNext;
    if (!failure || failuresLeft === 0) return;
    if (failure.model !== undefined && failure.model !== model) return;
    if (failure.path !== undefined && failure.path !== path) return;
    failuresLeft -= 1;
    throw new ProtocolError(
      failure.status,
      `The offline model was told to fail with ${failure.status}.`,
      failure.status === 429 ? 'rate_limit_exceeded' : null,
      retryAfter(failure.retryAfterSeconds),
    );
  };
  const limitWhenTold = (): void => {
    if (!behaviour.rateLimit) return;
    const limit = behaviour.rateLimit.requestsPerMinute;
    const oldest = now() - 60_000;
    admittedAt = admittedAt.filter((time) => time > oldest);
    const first = admittedAt[0];
    if (admittedAt.length < limit || first === undefined) {
      admittedAt.push(now());
      return;
    }
    const seconds = Math.max(1, Math.ceil((first - oldest) / 1_000));
    throw new ProtocolError(429, `Rate limit of ${limit} requests a minute reached.`, 'rate_limit_exceeded', {
      ...retryAfter(seconds),
      'x-ratelimit-limit-requests': String(limit),
      'x-ratelimit-remaining-requests': '0',
      'x-ratelimit-reset-requests': `${seconds}s`,
    });
  };

  return {
    behaviour: () => behaviour,
    setBehaviour: (next) => {
      behaviour = next;
      failuresLeft = next.failNext?.count ?? 0;
      admittedAt = [];
    },
    setScript: (next) => {
      script = next.map((entry) => ({ entry, left: entry.times ?? 1 }));
    },
    reset: () => {
      behaviour = {};
      failuresLeft = 0;
      script = [];
      admittedAt = [];
    },
    admit: (path, model) => {
      limitWhenTold();
      failWhenTold(path, model);
    },
    takeScriptEntry: (request, messages) => {
      const found = script.find(({ entry, left }) => left > 0 && matches(entry, request, messages));
      if (!found) return null;
      found.left -= 1;
      return found.entry;
    },
  };
}

function matches(entry: ScriptEntry, request: ChatRequest, messages: readonly Message[]): boolean {
  const user = messages.findLast((message) => message.role === 'user')?.text ?? '';
  const system = messages.flatMap((message) => (message.role === 'system' ? [message.text] : [])).join('\n');
  return (
    user.includes(entry.match) &&
    (entry.matchSystem === undefined || system.includes(entry.matchSystem)) &&
    (entry.model === undefined || entry.model === request.model)
  );
}

/**
 * The reply an entry dictates.
 *
 * @throws ProtocolError when it dictates an error.
 */
export function playScriptEntry(entry: ScriptEntry): Reply {
  if (entry.status !== undefined) {
    const message = typeof entry.reply === 'string' ? entry.reply : `The script says ${entry.status}.`;
    throw new ProtocolError(entry.status, message, null, retryAfter(entry.retryAfterSeconds));
  }
  if (Array.isArray(entry.reply)) {
    return { kind: 'tools', calls: entry.reply.map((call) => ({ name: call.name, arguments: call.arguments ?? {} })) };
  }
  return { kind: 'text', text: entry.reply ?? '' };
}

function retryAfter(seconds: number | undefined): Record<string, string> {
  return seconds === undefined ? {} : { 'retry-after': String(seconds) };
}

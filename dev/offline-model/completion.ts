import { type ChatRequest, FINGERPRINT, type Message, MODEL_ID, type Reply } from './protocol.ts';
import { toTokens } from './words.ts';

export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
}

/** A reply with everything the wire wants to know about it. */
export interface Completion {
  readonly id: string;
  /** Seconds since 1970. */
  readonly created: number;
  readonly tokens: readonly string[];
  readonly calls: readonly { readonly id: string; readonly name: string; readonly arguments: string }[];
  readonly finishReason: 'stop' | 'length' | 'tool_calls';
  readonly usage: Usage;
}

/** Cuts a reply to the request's limits and counts it; `number` makes its ids differ from other completions'. */
export function complete(
  request: ChatRequest,
  messages: readonly Message[],
  reply: Reply,
  number: number,
  created: number,
): Completion {
  const id = `chatcmpl-offline-${number}`;
  const promptTokens = countPromptTokens(request, messages);
  if (reply.kind === 'tools') {
    const calls = reply.calls.map((call, index) => ({
      id: `call_offline_${number}_${index}`,
      name: call.name,
      arguments: typeof call.arguments === 'string' ? call.arguments : JSON.stringify(call.arguments),
    }));
    const used = calls.reduce((sum, call) => sum + toTokens(call.name + call.arguments).length, 0);
    return { id, created, tokens: [], calls, finishReason: 'tool_calls', usage: toUsage(promptTokens, used) };
  }
  const all = toTokens(cutAtStop(reply.text, request.stop ?? []));
  const limit = request.max_completion_tokens ?? request.max_tokens ?? Number.POSITIVE_INFINITY;
  const tokens = all.length > limit ? all.slice(0, limit) : all;
  const finishReason = tokens.length < all.length ? 'length' : 'stop';
  return { id, created, tokens, calls: [], finishReason, usage: toUsage(promptTokens, tokens.length) };
}

/** The body of an answer that isn't streamed. */
export function toBody(completion: Completion): unknown {
  const toolCalls = completion.calls.map((call) => ({
    id: call.id,
    type: 'function',
    function: { name: call.name, arguments: call.arguments },
  }));
  const message = {
    role: 'assistant',
    content: toolCalls.length > 0 ? null : completion.tokens.join(''),
    refusal: null,
    ...(toolCalls.length > 0 ? { tool_calls: toolCalls } : {}),
  };
  return {
    id: completion.id,
    object: 'chat.completion',
    created: completion.created,
    model: MODEL_ID,
    system_fingerprint: FINGERPRINT,
    choices: [{ index: 0, message, logprobs: null, finish_reason: completion.finishReason }],
    usage: completion.usage,
  };
}

/** A piece of a streamed answer; `isToken` tells those that count as text or argument tokens from the frame around. */
export interface StreamPiece {
  readonly isToken: boolean;
  readonly chunk: unknown;
}

/** The chunks of a streamed answer in order, without the closing `[DONE]`. */
export function* toChunks(completion: Completion, includesUsage: boolean): Generator<StreamPiece> {
  const frame = {
    id: completion.id,
    object: 'chat.completion.chunk',
    created: completion.created,
    model: MODEL_ID,
    system_fingerprint: FINGERPRINT,
  };
  // With include_usage every chunk but the last carries a null usage.
  const usage = includesUsage ? { usage: null } : {};
  const piece = (isToken: boolean, delta: unknown, finishReason: string | null = null): StreamPiece => ({
    isToken,
    chunk: { ...frame, choices: [{ index: 0, delta, logprobs: null, finish_reason: finishReason }], ...usage },
  });
  yield piece(false, { role: 'assistant', content: completion.calls.length > 0 ? null : '' });
  for (const token of completion.tokens) yield piece(true, { content: token });
  for (const [index, call] of completion.calls.entries()) {
    const opening = { index, id: call.id, type: 'function', function: { name: call.name, arguments: '' } };
    yield piece(true, { tool_calls: [opening] });
    for (const token of toTokens(call.arguments)) {
      yield piece(true, { tool_calls: [{ index, function: { arguments: token } }] });
    }
  }
  yield piece(false, {}, completion.finishReason);
  if (includesUsage) yield { isToken: false, chunk: { ...frame, choices: [], usage: completion.usage } };
}

/** Counts texts in the tokens of this model, for embeddings. */
export function countTokens(texts: readonly string[]): number {
  return texts.reduce((sum, text) => sum + toTokens(text).length, 0);
}

// What the frame around each message costs with the common models.
const TOKENS_PER_MESSAGE = 4;

function countPromptTokens(request: ChatRequest, messages: readonly Message[]): number {
  const texts = messages.map((message) => message.text + message.toolCalls.map((call) => call.arguments).join(''));
  const tools = request.tools ? [JSON.stringify(request.tools)] : [];
  return countTokens([...texts, ...tools]) + messages.length * TOKENS_PER_MESSAGE;
}

function cutAtStop(text: string, stop: string | readonly string[]): string {
  const ends = [stop].flat().map((end) => (end === '' ? -1 : text.indexOf(end)));
  const first = Math.min(...ends.filter((end) => end >= 0));
  return Number.isFinite(first) ? text.slice(0, first) : text;
}

function toUsage(prompt: number, completion: number): Usage {
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion };
}

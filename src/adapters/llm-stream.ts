import type OpenAI from 'openai';
import { DomainError } from '../errors.ts';

/** A call of a tool as the model wrote it. Name and arguments may be anything: the caller checks them. */
export interface ToolCall {
  /** The model's name of the call, by which its result is given back. */
  id: string;
  name: string;
  /** JSON, if the model kept to it. */
  arguments: string;
}

export interface ChatAnswer {
  content: string;
  toolCalls: ToolCall[];
  model: string;
  promptTokens: number;
  completionTokens: number;
}

/** Puts a streamed answer together. */
export interface AnswerGatherer {
  /**
   * Takes the next piece.
   * @returns false when the answer is as long as an answer may be
   * @throws Error when the piece is none, or tells of a failure
   */
  take(data: string): boolean;
  /** @throws DomainError MODEL_UNAVAILABLE when the answer ended in the middle */
  end(): ChatAnswer;
}

/** Most characters of one answer that are kept, calls of tools included: a model that never stops must not fill memory. */
const longestAnswer = 400_000;
/** Most calls of tools in one answer; each of them may start work. */
const mostCalls = 64;

/** @param onText gets the text of the answer piece by piece */
export function gatherAnswer(model: string, onText: (text: string) => void): AnswerGatherer {
  const answer: ChatAnswer = { content: '', toolCalls: [], model, promptTokens: 0, completionTokens: 0 };
  let finished = false;
  let length = 0;
  return {
    take: (data) => {
      const chunk = parseChunk(data);
      const choice = chunk.choices[0];
      const text = choice?.delta.content;
      if (typeof text === 'string' && text !== '') {
        answer.content += text;
        length += text.length;
        onText(text);
      }
      length += addCallParts(answer.toolCalls, choice?.delta.tool_calls ?? []);
      finished ||= typeof choice?.finish_reason === 'string';
      answer.model = chunk.model || answer.model;
      answer.promptTokens = chunk.usage?.prompt_tokens ?? answer.promptTokens;
      answer.completionTokens = chunk.usage?.completion_tokens ?? answer.completionTokens;
      return length <= longestAnswer;
    },
    end: () => {
      if (length > longestAnswer) {
        // Arguments that were cut off are no arguments.
        return { ...answer, toolCalls: [] };
      }
      if (!finished) {
        throw new DomainError('MODEL_UNAVAILABLE', 'The model ended its answer in the middle.');
      }
      return answer;
    },
  };
}

/** What it throws quotes nothing: it may be logged. */
function parseChunk(data: string): OpenAI.ChatCompletionChunk {
  let chunk: OpenAI.ChatCompletionChunk & { error?: unknown };
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new Error('a piece of the answer is no JSON');
  }
  if (chunk.error) {
    throw new Error('the model failed in the middle of its answer');
  }
  return chunk;
}

/** @returns how many characters came */
function addCallParts(calls: ToolCall[], parts: readonly OpenAI.ChatCompletionChunk.Choice.Delta.ToolCall[]): number {
  let length = 0;
  for (const part of parts) {
    if (!Number.isInteger(part.index) || part.index < 0 || part.index > calls.length || part.index >= mostCalls) {
      continue;
    }
    const call = calls[part.index] ?? { id: '', name: '', arguments: '' };
    calls[part.index] = call;
    call.id += part.id ?? '';
    call.name += part.function?.name ?? '';
    call.arguments += part.function?.arguments ?? '';
    length += [part.id, part.function?.name, part.function?.arguments].join('').length;
  }
  return length;
}

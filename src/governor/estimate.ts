import type { ChatRequest } from '../adapters/llm.ts';

/** Foresees how many tokens a call will use, from what calls before it used. */
export interface Estimator {
  /** @param characters of all that the model is told */
  chat(characters: number): number;
  embedding(characters: number): number;
  /** Learns from a call: what it was told, and what it used. Zero tokens mean that the provider did not say. */
  learn(call: { characters: number; promptTokens: number; completionTokens: number | null }): void;
}

/** Before anything is known: more than most texts need, so that a new process does not exceed the budget. */
const firstCharactersPerToken = 3;
const firstAnswer = 500;
/** Weight of the newest call. */
const weight = 0.1;
/** Answers vary more than prompts: this much more than the usual one is set aside. */
const answerMargin = 1.25;

export function createEstimator(): Estimator {
  let charactersPerToken = firstCharactersPerToken;
  let answer = firstAnswer;
  const prompt = (characters: number): number => Math.ceil(characters / charactersPerToken);
  return {
    chat: (characters) => prompt(characters) + Math.ceil(answer * answerMargin),
    embedding: (characters) => Math.max(1, prompt(characters)),
    learn: ({ characters, promptTokens, completionTokens }) => {
      if (promptTokens > 0 && characters > 0) {
        const seen = Math.min(Math.max(characters / promptTokens, 1), 8);
        charactersPerToken += weight * (seen - charactersPerToken);
      }
      if (completionTokens !== null && completionTokens > 0) {
        answer += weight * (completionTokens - answer);
      }
    },
  };
}

/** How many characters a chat request tells the model. */
export function charactersOf(request: Pick<ChatRequest, 'messages' | 'tools' | 'answerSchema'>): number {
  let characters = 0;
  for (const message of request.messages) {
    characters += message.content.length + 16;
    if (message.role === 'assistant') {
      for (const call of message.toolCalls ?? []) {
        characters += call.name.length + call.arguments.length;
      }
    }
  }
  const rest = [...(request.tools ?? []), ...(request.answerSchema === undefined ? [] : [request.answerSchema])];
  return characters + (rest.length === 0 ? 0 : JSON.stringify(rest).length);
}

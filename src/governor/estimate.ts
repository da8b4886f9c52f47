import { LRUCache } from 'lru-cache';
import type { ChatRequest } from '../adapters/llm.ts';

/** Foresees how many tokens a call will use, from what calls before it used. */
export interface Estimator {
  /** @param characters of all that the model is told */
  chat(userId: string, characters: number): number;
  embedding(characters: number): number;
  /** Learns from a call: what it was told, and what it used. Zero tokens mean that the provider did not say. */
  learn(userId: string, call: { characters: number; promptTokens: number; completionTokens: number | null }): void;
}

/** How long answers are, and how much that varies, in tokens. */
interface Habit {
  answer: number;
  deviation: number;
}

/** Before anything is known: more than most texts need, so that a new process does not exceed the budget. */
const firstCharactersPerToken = 3;
const firstHabit: Habit = { answer: 500, deviation: 250 };
/** Weight of the newest call. */
const weight = 0.1;
const userWeight = 0.3;
/** So many times the usual deviation is set aside beyond the usual answer. */
const margin = 2;
/** Users whose habit is known: agents of one user answer alike, those of different users do not. */
const mostUsers = 10_000;

export function createEstimator(): Estimator {
  let charactersPerToken = firstCharactersPerToken;
  let usual = firstHabit;
  const habits = new LRUCache<string, Habit>({ max: mostUsers });
  const prompt = (characters: number): number => Math.ceil(characters / charactersPerToken);
  return {
    chat: (userId, characters) => {
      const { answer, deviation } = habits.get(userId) ?? usual;
      return prompt(characters) + Math.ceil(answer + margin * deviation);
    },
    embedding: (characters) => Math.max(1, prompt(characters)),
    learn: (userId, { characters, promptTokens, completionTokens }) => {
      if (promptTokens > 0 && characters > 0) {
        const seen = Math.min(Math.max(characters / promptTokens, 1), 8);
        charactersPerToken += weight * (seen - charactersPerToken);
      }
      if (completionTokens !== null && completionTokens > 0) {
        habits.set(userId, moved(habits.get(userId) ?? usual, completionTokens, userWeight));
        usual = moved(usual, completionTokens, weight);
      }
    },
  };
}

function moved(habit: Habit, seen: number, by: number): Habit {
  return {
    answer: habit.answer + by * (seen - habit.answer),
    deviation: habit.deviation + by * (Math.abs(seen - habit.answer) - habit.deviation),
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

import { describe, expect, it } from 'vitest';
import { charactersOf, createEstimator } from '../../src/governor/estimate.ts';

const learn = (estimator: ReturnType<typeof createEstimator>, userId: string, answers: number[]): void => {
  for (const completionTokens of answers) {
    estimator.learn(userId, { characters: 400, promptTokens: 100, completionTokens });
  }
};

describe('the estimate of a call', () => {
  it('is generous before anything is known', () => {
    expect(createEstimator().chat('alice', 300)).toBe(100 + 1_000);
  });

  it("comes close to a user's steady answers, whatever others get", () => {
    const estimator = createEstimator();
    for (let round = 0; round < 40; round += 1) {
      learn(estimator, 'alice', [50]);
      learn(estimator, 'bob', [900]);
    }
    expect(estimator.chat('alice', 400) - 100).toBeLessThan(60);
    expect(estimator.chat('bob', 400) - 100).toBeLessThan(960);
    // Of a new user nothing is known but what is usual here.
    expect(estimator.chat('carol', 400)).toBeGreaterThan(500);
  });

  it('sets more aside where answers vary', () => {
    const estimator = createEstimator();
    learn(
      estimator,
      'alice',
      Array.from({ length: 60 }, (_, turn) => (turn % 2 === 0 ? 100 : 500)),
    );
    expect(estimator.chat('alice', 0)).toBeGreaterThan(500);
  });

  it('learns nothing from a provider that counts no tokens', () => {
    const estimator = createEstimator();
    const before = estimator.chat('alice', 1_000);
    estimator.learn('alice', { characters: 1_000, promptTokens: 0, completionTokens: 0 });
    expect(estimator.chat('alice', 1_000)).toBe(before);
  });

  it('counts messages, calls of tools, tools and schemas', () => {
    const plain = charactersOf({ messages: [{ role: 'user', content: 'x'.repeat(100) }] });
    const call = { id: '1', name: 'search', arguments: 'y'.repeat(200) };
    const whole = charactersOf({
      messages: [
        { role: 'user', content: 'x'.repeat(100) },
        { role: 'assistant', content: '', toolCalls: [call] },
      ],
      tools: [{ name: 'search', description: 'z'.repeat(300), argumentsSchema: {} }],
    });
    expect(plain).toBeGreaterThanOrEqual(100);
    expect(whole - plain).toBeGreaterThan(500);
  });
});

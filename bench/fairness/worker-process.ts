import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { createBudgetStore } from '../../src/adapters/budget-store.ts';
import { createLanguageModel, type LanguageModel } from '../../src/adapters/llm.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createMetrics } from '../../src/adapters/metrics.ts';
import { createSharedStore } from '../../src/adapters/shared-store.ts';
import { DomainError } from '../../src/errors.ts';
import type { ModelFor } from '../../src/governor/caller.ts';
import { createBudgetEngine, shareConstants } from '../../src/governor/engine.ts';
import { createGovernor } from '../../src/governor/governor.ts';
import { retryDelay } from '../../src/queue/retry.ts';
import { runChild } from '../child.ts';
import { machineTime } from '../queue/engine.ts';
import { type CallRecord, limits, type Player, type ProcessSettings } from './scenario.ts';

const log = createLog({ level: 'silent' });

// A worker process that calls the model for many users, by one of the ways that are compared.
runChild<ProcessSettings, null>(async (settings) => {
  const store = createSharedStore({ url: settings.redisUrl, log });
  while (!store.ready()) {
    await sleep(10);
  }
  const modelFor = createModelFor(settings, store);
  let records: CallRecord[] = [];
  let stopping = new AbortController();
  let running: Promise<unknown>[] = [];

  const call = async (player: Player, signal: AbortSignal): Promise<void> => {
    const asked = machineTime();
    let sent: number | null = null;
    const onSent = (): void => {
      sent = machineTime();
    };
    let tokens = 0;
    for (let failures = 0; !signal.aborted; failures += 1) {
      try {
        const model = modelFor(player.userId, onSent);
        const answer = await model.chat(
          { model: null, temperature: null, messages: [{ role: 'user', content: String(player.answer) }], signal },
          () => undefined,
        );
        tokens = answer.promptTokens + answer.completionTokens;
        break;
      } catch (error) {
        sent = null;
        // As the task engine does it.
        const failure = error instanceof DomainError ? error : new DomainError('INTERNAL', String(error));
        const delay = retryDelay({ code: failure.code, message: '', retryAfter: failure.retryAfter }, failures);
        if (signal.aborted || delay === null) {
          break;
        }
        await sleep(delay, undefined, { signal }).catch(() => undefined);
      }
    }
    if (!signal.aborted || tokens > 0) {
      records.push({ userId: player.userId, asked, sent, ended: machineTime(), tokens });
    }
  };
  const keepOpen = async (player: Player, signal: AbortSignal): Promise<void> => {
    while (!signal.aborted) {
      await call(player, signal);
    }
  };
  const byTheClock = async (player: Player, signal: AbortSignal): Promise<void> => {
    const calls: Promise<void>[] = [];
    // Users do not begin together.
    await sleep(Math.random() * player.interval, undefined, { signal }).catch(() => undefined);
    while (!signal.aborted) {
      calls.push(call(player, signal));
      await sleep(player.interval * (0.5 + Math.random()), undefined, { signal }).catch(() => undefined);
    }
    await Promise.all(calls);
  };
  const end = async (): Promise<void> => {
    stopping.abort(new Error('the measurement is over'));
    await Promise.all(running);
    running = [];
  };
  return {
    ready: null,
    commands: {
      begin: (players: Player[]): void => {
        stopping = new AbortController();
        const { signal } = stopping;
        running = players.flatMap((player) =>
          player.open === null
            ? [byTheClock(player, signal)]
            : Array.from({ length: player.open }, () => keepOpen(player, signal)),
        );
      },
      /** Hands over what ended since the last time. */
      records: (): CallRecord[] => {
        const done = records;
        records = [];
        return done;
      },
      end,
    },
    stop: async () => {
      await end();
      store.close();
    },
  };
});

/** The model as a user calls it, by the way that is measured; `onSent` is told when a request leaves. */
type CallModel = (userId: string, onSent: () => void) => LanguageModel;

function createModelFor(settings: ProcessSettings, store: ReturnType<typeof createSharedStore>): CallModel {
  const direct = createLanguageModel({
    baseUrl: settings.baseUrl,
    apiKey: 'bench',
    defaultModel: 'bench',
    defaultEmbeddingModel: 'bench',
    connectTimeout: 10_000,
    idleTimeout: 10_000,
  });
  const tell = new WeakMap<AbortSignal, () => void>();
  const told: LanguageModel = {
    ...direct,
    chat: (request, onText) => {
      tell.get(request.signal)?.();
      return direct.chat(request, onText);
    },
  };
  const governed: ModelFor | null =
    settings.contender === 'no governor'
      ? null
      : createGovernor({
          provider: { name: 'bench', model: told, defaultModel: 'bench', defaultEmbeddingModel: 'bench' },
          fallback: null,
          limitsOf: () => ({ name: '*', limits }),
          engineFor: () =>
            createBudgetEngine({
              limits,
              process: randomUUID(),
              now: Date.now,
              store: createBudgetStore(store, settings.budget, { ...limits, constants: shareConstants }),
              newEpoch: randomUUID,
            }),
          waitTimeout: 120_000,
          maxWaiting: 100_000,
          maxWaitingPerUser: 100_000,
          metrics: createMetrics(),
          log,
        });
  return (userId, onSent) => ({
    ...direct,
    chat: (request, onText) => {
      const signal = AbortSignal.any([request.signal]);
      tell.set(signal, onSent);
      // A plain FIFO limiter is the same budget for one user who is everybody.
      const who = settings.contender === 'FIFO limiter' ? 'everybody' : userId;
      const model = governed === null ? told : governed({ userId: who, priority: 'INTERACTIVE' });
      return model.chat({ ...request, signal }, onText);
    },
  });
}

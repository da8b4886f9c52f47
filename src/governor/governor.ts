import { createHash } from 'node:crypto';
import { CircuitState, ConsecutiveBreaker, circuitBreaker, handleWhen, isBrokenCircuitError } from 'cockatiel';
import type { ChatAnswer, ChatRequest, EmbeddingRequest, Embeddings, LanguageModel } from '../adapters/llm.ts';
import type { Log } from '../adapters/log.ts';
import type { Metrics } from '../adapters/metrics.ts';
import { DomainError } from '../errors.ts';
import type { ModelCaller, ModelFor } from './caller.ts';
import { asKept, createEmbeddingCache } from './embedding-cache.ts';
import type { BudgetEngine } from './engine.ts';
import { charactersOf, createEstimator, type Estimator } from './estimate.ts';
import { createFlights } from './flight.ts';
import { createLine, type Line } from './line.ts';
import { takePlace } from './place.ts';
import type { Limits } from './share.ts';

/** A provider's endpoint. */
export interface Provider {
  /** Names it in logs and budgets: no key, nothing of a user. */
  name: string;
  model: LanguageModel;
  /** Model that is asked when a request names none. */
  defaultModel: string;
  defaultEmbeddingModel: string;
}

export interface GovernorOptions {
  provider: Provider;
  /** Answers chats when the first provider can't; its default model is the one that is asked. */
  fallback: Provider | null;
  /** What the provider allows of a model. Models that it does not name share one budget, named `*`. */
  limitsOf: (model: string) => { name: string; limits: Limits };
  engineFor: (budget: string, limits: Limits) => BudgetEngine;
  /** Longest wait for a turn, in milliseconds. */
  waitTimeout: number;
  maxWaiting: number;
  maxWaitingPerUser: number;
  log: Log;
  metrics: Pick<Metrics, 'modelWaits' | 'modelWaiting' | 'modelBudget' | 'modelBudgetUsed' | 'modelLeftAlone'>;
  /** How long a provider that fails is left alone, in milliseconds. */
  leaveAloneFor?: number;
  random?: () => number;
}

/** One call of many kinds: what it costs, and how it is made. */
interface Call<Answer> {
  caller: ModelCaller;
  model: string;
  signal: AbortSignal;
  estimate: (estimator: Estimator) => number;
  make: (provider: Provider, onArrival: () => void) => Promise<Answer>;
  /** Tokens that it used, and what there is to learn from it. */
  used: (answer: Answer, estimator: Estimator) => number;
  /** Whether it may be made once more: nothing of its answer was handed out yet. */
  isUntouched: () => boolean;
}

interface Budget {
  name: string;
  engine: BudgetEngine;
  limits: Limits;
  line: Line;
  estimator: Estimator;
}

/** A call is made at most this often when the provider refuses it for its rate. */
const mostAttempts = 3;
/** Pause after a refusal that names no time, in milliseconds; doubled each time, with jitter. */
const firstPause = 1_000;
const longestPause = 60_000;
/** Faults in a row after which a provider is left alone, and for how long, in milliseconds. */
const faultsInARow = 5;
const openFor = 10_000;

/**
 * Lets every call of a model through in turn: within the provider's budget, fairly between users, interactive work
 * before background work. A provider that fails is left alone for a while, and the fall-back answers.
 */
export function createGovernor(options: GovernorOptions): ModelFor {
  const lines = new Set<Line>();
  const primary = guard(options.provider, options, lines);
  const fallback = options.fallback === null ? null : guard(options.fallback, options, lines);
  options.metrics.modelWaiting.watch({}, () => [...lines].reduce((sum, line) => sum + line.waiting(), 0));
  const flights = createFlights<Embeddings>();
  const cache = createEmbeddingCache();

  const chat = async (
    caller: ModelCaller,
    request: ChatRequest,
    onText: (text: string) => void,
  ): Promise<ChatAnswer> => {
    const characters = charactersOf(request);
    let written = 0;
    const callOf = (model: string): Call<ChatAnswer> => ({
      caller,
      model,
      signal: request.signal,
      estimate: (estimator) => estimator.chat(caller.userId, characters),
      make: (provider, onArrival) =>
        provider.model.chat({ ...request, model, onArrival }, (text) => {
          written += text.length;
          onText(text);
        }),
      used: (answer, estimator) => {
        const { promptTokens, completionTokens } = answer;
        estimator.learn(caller.userId, { characters, promptTokens, completionTokens });
        return promptTokens + completionTokens || estimator.embedding(characters + written);
      },
      isUntouched: () => written === 0,
    });
    try {
      return await primary(callOf(request.model ?? options.provider.defaultModel));
    } catch (error) {
      if (fallback === null || options.fallback === null || written > 0 || !isProvidersFault(error)) {
        throw error;
      }
      options.log.warn({ provider: options.fallback.name, code: error.code }, 'the fall-back model answers');
      return await fallback(callOf(options.fallback.defaultModel));
    }
  };
  const embed = async (caller: ModelCaller, request: EmbeddingRequest): Promise<Embeddings> => {
    const model = request.model ?? options.provider.defaultEmbeddingModel;
    const characters = request.texts.reduce((sum, text) => sum + text.length, 0);
    // The user is part of the key: what one user asks is no news to another.
    const key = createHash('sha256')
      .update(JSON.stringify([caller.userId, model, request.texts]))
      .digest('base64');
    const known = cache.find(key);
    if (known !== null) {
      return known;
    }
    let isFirst = false;
    const made = await flights.join(key, request.signal, async (signal) => {
      isFirst = true;
      const embeddings = await primary({
        caller,
        model,
        signal,
        estimate: (estimator) => estimator.embedding(characters),
        make: (provider) => provider.model.embed({ texts: request.texts, model, signal }),
        used: ({ promptTokens }, estimator) => {
          estimator.learn(caller.userId, { characters, promptTokens, completionTokens: null });
          return promptTokens || estimator.embedding(characters);
        },
        isUntouched: () => true,
      });
      cache.keep(key, embeddings);
      return embeddings;
    });
    // Who joined did not cause the call: its tokens are counted once.
    return isFirst ? made : asKept(made);
  };
  return (caller) => ({
    chat: (request, onText) => chat(caller, request, onText),
    embed: (request) => embed(caller, request),
  });
}

function isProvidersFault(error: unknown): error is DomainError {
  return (
    error instanceof DomainError &&
    (error.code === 'MODEL_UNAVAILABLE' || error.code === 'MODEL_RATE_LIMITED' || error.code === 'MODEL_BUSY')
  );
}

/** A provider behind its breaker and the budgets of its models. */
function guard(
  provider: Provider,
  options: GovernorOptions,
  lines: Set<Line>,
): <Answer>(call: Call<Answer>) => Promise<Answer> {
  const { log, metrics, random = Math.random, leaveAloneFor = openFor } = options;
  const budgets = new Map<string, Budget>();
  const budgetOf = (model: string): Budget => {
    const { name, limits } = options.limitsOf(model);
    let budget = budgets.get(name);
    if (budget === undefined) {
      const engine = options.engineFor(`${provider.name}:${name}`, limits);
      const { waitTimeout, maxWaiting, maxWaitingPerUser } = options;
      const line = createLine({ engine, waitTimeout, maxWaiting, maxWaitingPerUser });
      budget = { name, engine, limits, line, estimator: createEstimator() };
      budgets.set(name, budget);
      const perMinute = 60_000 / limits.window;
      metrics.modelBudget.set({ provider: provider.name, budget: name, kind: 'requests' }, limits.requests * perMinute);
      metrics.modelBudget.set({ provider: provider.name, budget: name, kind: 'tokens' }, limits.tokens * perMinute);
      lines.add(line);
    }
    return budget;
  };
  const breaker = circuitBreaker(
    handleWhen((error) => error instanceof DomainError && error.code === 'MODEL_UNAVAILABLE'),
    { halfOpenAfter: leaveAloneFor, breaker: new ConsecutiveBreaker(faultsInARow) },
  );
  // The breaker itself stays open until a call comes through it: without the time, nobody would ever try again.
  let leftAloneUntil = 0;
  breaker.onBreak(() => {
    leftAloneUntil = Date.now() + leaveAloneFor;
    metrics.modelLeftAlone.set({ provider: provider.name }, 1);
    log.warn({ provider: provider.name }, 'the model provider fails and is left alone');
  });
  breaker.onReset(() => {
    metrics.modelLeftAlone.set({ provider: provider.name }, 0);
    log.info({ provider: provider.name }, 'the model provider answers again');
  });
  metrics.modelLeftAlone.set({ provider: provider.name }, 0);

  /** While the provider is left alone, and while one call tries it: the others do not wait for that. */
  const refuseWhileAway = (before: () => void = () => undefined): void => {
    const left = breaker.state === CircuitState.HalfOpen ? firstPause : leftAloneUntil - Date.now();
    if (breaker.state !== CircuitState.Closed && left > 0) {
      before();
      throw unavailable(left);
    }
  };

  return async (call) => {
    const { name, engine, limits, line, estimator } = budgetOf(call.model);
    const count = (requests: number, tokens: number): void => {
      const labels = { provider: provider.name, budget: name };
      metrics.modelBudgetUsed.add({ ...labels, kind: 'requests' }, requests);
      metrics.modelBudgetUsed.add({ ...labels, kind: 'tokens' }, tokens);
    };
    const end = performance.now() + options.waitTimeout;
    for (let attempt = 1; ; attempt += 1) {
      refuseWhileAway();
      const candidate = {
        userId: call.caller.userId,
        background: call.caller.priority === 'BACKGROUND',
        tokens: Math.min(Math.ceil(call.estimate(estimator)), limits.tokens),
      };
      const entered = performance.now();
      const grant = await line.enter(candidate, call.signal, end - entered).finally(() => {
        const priority = candidate.background ? 'background' : 'interactive';
        metrics.modelWaits.observe({ priority }, (performance.now() - entered) / 1_000);
      });
      const place = takePlace(engine, grant, limits.window);
      try {
        refuseWhileAway(place.giveBack);
        if (!place.leave()) {
          place.giveBack();
          attempt -= 1;
          continue;
        }
        const answer = await breaker.execute(() => call.make(provider, place.arrived)).finally(place.arrived);
        const used = call.used(answer, estimator);
        place.settle(used);
        count(1, used);
        return answer;
      } catch (error) {
        if (isBrokenCircuitError(error)) {
          place.giveBack();
          throw unavailable(leaveAloneFor, error);
        }
        if (error instanceof DomainError && (error.code === 'MODEL_REFUSED' || error.code === 'MODEL_RATE_LIMITED')) {
          // Refused calls count as requests with most providers, but use no tokens.
          place.settle(0);
          count(1, 0);
        }
        if (!(error instanceof DomainError) || error.code !== 'MODEL_RATE_LIMITED') {
          throw error;
        }
        const asked = error.retryAfter === undefined ? firstPause * 2 ** (attempt - 1) : error.retryAfter * 1_000;
        // Jitter on top, never below: so that processes do not come back as one.
        const pause = Math.min(asked, longestPause) * (1 + 0.1 * random());
        engine.pause(pause);
        log.warn({ provider: provider.name, pause: Math.round(pause) }, 'the model provider refused for its rate');
        if (attempt >= mostAttempts || !call.isUntouched() || performance.now() + pause > end) {
          throw error;
        }
      }
    }
  };
}

/** @param left how long the provider will be left alone still, in milliseconds */
function unavailable(left: number, cause?: unknown): DomainError {
  return new DomainError('MODEL_UNAVAILABLE', 'The model provider fails and is left alone for a while.', {
    retryAfter: Math.ceil(left / 1_000),
    cause,
  });
}

import type { Metrics } from './adapters/metrics.ts';

/** How one dependency is asked. */
export interface Dependency {
  /** Without a required one the process can do nothing; without another it does less, as the documentation says. */
  required: boolean;
  /** @returns its state in a word: `up`, or any other for one that is there but not as it should be; throws when it is away */
  ask(): Promise<string>;
}

export interface HealthReport {
  /** `degraded` still takes requests: something is away that the service can do without for a while. */
  status: 'ready' | 'degraded' | 'unavailable' | 'stopping';
  dependencies: Record<string, string>;
}

/** Asks the dependencies, or answers with what they said a moment ago. */
export type CheckHealth = () => Promise<HealthReport>;

/** A dependency's answer counts for so long, in milliseconds: probes by many must not become a load. */
const freshFor = 1_000;
/** Longest wait for a dependency, in milliseconds: a probe that hangs is an answer too. */
const patience = 2_000;
/** States that are as they should be. */
const wellStates = new Set(['up', 'connected', 'in-process', 'not configured']);

/** Builds the check over a process's dependencies, by name. Each check also shows them as metrics. */
export function createHealth(
  dependencies: Readonly<Record<string, Dependency>>,
  metrics: Metrics,
  stopping: AbortSignal,
): CheckHealth {
  let latest: { at: number; states: Promise<Record<string, string>> } | null = null;

  const askAll = async (): Promise<Record<string, string>> => {
    const asked = await Promise.all(
      Object.entries(dependencies).map(async ([name, dependency]) => [name, await askOne(dependency)] as const),
    );
    for (const [dependency, state] of asked) {
      metrics.dependencies.set({ dependency }, wellStates.has(state) ? 1 : 0);
    }
    return Object.fromEntries(asked);
  };

  return async () => {
    const now = performance.now();
    if (latest === null || now - latest.at > freshFor) {
      latest = { at: now, states: askAll() };
    }
    const states = await latest.states;
    const away = Object.keys(dependencies).filter((name) => !wellStates.has(states[name] ?? ''));
    if (stopping.aborted) {
      return { status: 'stopping', dependencies: states };
    }
    if (away.some((name) => dependencies[name]?.required === true)) {
      return { status: 'unavailable', dependencies: states };
    }
    return { status: away.length === 0 ? 'ready' : 'degraded', dependencies: states };
  };
}

async function askOne(dependency: Dependency): Promise<string> {
  const { promise: late, resolve } = Promise.withResolvers<string>();
  const timer = setTimeout(() => resolve('down'), patience);
  try {
    return await Promise.race([dependency.ask().catch(() => 'down'), late]);
  } finally {
    clearTimeout(timer);
  }
}

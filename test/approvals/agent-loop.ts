import { createServer } from 'node:http';
import { v7 as uuidv7 } from 'uuid';
import { listen } from '../../dev/listen.ts';
import { systemClock } from '../../src/adapters/clock.ts';
import { createLanguageModel } from '../../src/adapters/llm.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createMetrics } from '../../src/adapters/metrics.ts';
import { createDatabase, type Database } from '../../src/adapters/postgres.ts';
import { createChannel } from '../../src/adapters/redis.ts';
import { createTracing } from '../../src/adapters/trace.ts';
import { createOperation } from '../../src/operation.ts';
import { beat, claimTasks, rescueTasks } from '../../src/queue/claim.ts';
import { resumeTask } from '../../src/queue/task.ts';
import { createDeltaPace } from '../../src/runner/delta.ts';
import { createAgentRunner } from '../../src/runner/run-agent.ts';
import { type RunResources, runTask } from '../../src/runner/run-task.ts';
import type { ExecutableTool } from '../../src/runner/tool.ts';
import { createToolArguments } from '../../src/services/tool-arguments.ts';
import { expireApprovals } from '../../src/services/upkeep.ts';
import { rowId } from '../isolation/world.ts';
import { startTestService, type TestService, type TestUser } from '../service.ts';

/** An effect that a tool had on the world outside. */
export interface Effect {
  tool: string;
  arguments: Record<string, unknown>;
  key: string;
}

/** What ends a worker: at which of its commits, and whether that commit still went through. */
export interface Death {
  commit: number;
  when: 'before' | 'after';
}

/** Agents with tools whose effects are counted by a real server outside, and workers that die when they are told to. */
export interface AgentLoop {
  service: TestService;
  look: TestService['database']['owner'];
  effects: Effect[];
  /** What the outside does before it answers a call. */
  onEffect(listener: ((effect: Effect) => Promise<void> | void) | null): void;
  /** A tool of a user. Its effect is a request to the outside, and its result what that answers. */
  addTool(user: Someone, name: string, given?: Partial<ExecutableTool>): Promise<ExecutableTool>;
  addUser(agent?: Record<string, unknown>): Promise<Someone>;
  send(someone: Someone, content: string): Promise<string>;
  /**
   * Lets workers run all that is due, one after the other. The first may die; what it held is rescued.
   * @returns how often the first one committed
   */
  work(options?: Partial<WorkOptions>): Promise<number>;
  /** Queues a task again, as what brings a result from elsewhere does. */
  resume(someone: Someone, taskId: string): Promise<boolean>;
  upkeep(): Promise<number>;
  stop(): Promise<void>;
}

export interface Someone {
  user: TestUser;
  userId: string;
  agentId: string;
  sessionId: string;
  tools: ExecutableTool[];
}

export interface WorkOptions {
  death: Death | null;
  maxTurns: number;
  resultLength: number;
  /** Takes the run away from its worker. */
  signal: AbortSignal;
  /** Given the function by which its worker dies at once. */
  onStart: (die: () => void) => void;
}

const schema = {
  type: 'object',
  properties: { to: { type: 'string', description: 'A name' } },
  required: ['to'],
  additionalProperties: false,
};

export async function startAgentLoop(): Promise<AgentLoop> {
  await using started = new AsyncDisposableStack();
  const service = await startTestService({ worker: false });
  started.defer(() => service.stop());
  const log = createLog({ level: 'silent' });
  const channel = createChannel({ url: null, log });
  started.defer(() => channel.close());
  const database = createDatabase({
    url: service.database.workerUrl,
    poolSize: 10,
    connectionTimeout: 10_000,
    statementTimeout: 10_000,
    applicationName: 'test worker',
    onError: () => undefined,
  });
  started.defer(() => database.close());
  const effects: Effect[] = [];
  let listener: ((effect: Effect) => Promise<void> | void) | null = null;
  const outside = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) {
      body += String(chunk);
    }
    const effect = JSON.parse(body) as Effect;
    effects.push(effect);
    await listener?.(effect);
    response.end(`${effect.tool} done for ${String(effect.arguments['to'])}`);
  });
  const { origin: url } = await listen(outside);
  started.defer(async () => {
    outside.closeAllConnections();
    outside.close();
  });
  const model = createLanguageModel({
    baseUrl: service.model.url,
    apiKey: service.model.apiKey,
    defaultModel: 'offline-1',
    defaultEmbeddingModel: 'offline-embedding',
    connectTimeout: 10_000,
    idleTimeout: 10_000,
  });
  const look = service.database.owner;
  const operation = (userId: string) => createOperation({ database, channel, clock: systemClock() }, userId);
  const people = new Map<string, Someone>();

  const runOne = async (claims: Awaited<ReturnType<typeof claimTasks>>, options: WorkOptions): Promise<number> => {
    const mortal = createMortalDatabase(database, options.death);
    options.onStart(mortal.die);
    const resources: RunResources = {
      database: mortal.database,
      channel,
      clock: systemClock(),
      log,
      metrics: createMetrics(),
      tracing: createTracing(null),
      model,
      approvalTimeout: 300_000,
      pace: createDeltaPace(),
    };
    const handler = createAgentRunner({
      memory: { vectors: null, embeddingModel: 'none', embedTimeout: 1_000 },
      loadTools: async (run) => people.get(run.claim.userId)?.tools ?? [],
      toolArguments: createToolArguments(),
      maxTurns: options.maxTurns,
      resultLength: options.resultLength,
    });
    await Promise.all(claims.map((claim) => runTask(resources, handler, claim, options.signal)));
    return mortal.commits();
  };
  const all = started.move();
  return {
    service,
    look,
    effects,
    onEffect: (given) => {
      listener = given;
    },
    addUser: async (agent = {}) => {
      const user = await service.user(`user ${uuidv7()}`);
      const { data, errors } = await user.ask(
        `mutation ($input: CreateAgentInput!) { createAgent(input: $input) { agent { id } } createSession { session { id } } }`,
        { input: { name: 'Mailer', instructions: 'You are Mailer.', ...agent } },
      );
      if (errors.length > 0) {
        throw new Error(JSON.stringify(errors));
      }
      const viewer = await user.ask('{ viewer { id } }');
      const someone: Someone = {
        user,
        userId: rowId(viewer.data.viewer.id),
        agentId: data.createAgent.agent.id,
        sessionId: data.createSession.session.id,
        tools: [],
      };
      people.set(someone.userId, someone);
      return someone;
    },
    addTool: async (someone, name, given = {}) => {
      const [row] = await look(
        `INSERT INTO tools (user_id, name, description, kind, arguments_schema) VALUES ($1, $2, '', 'HTTP', $3)
        -- A new user's team has some of them already.
        ON CONFLICT (user_id, lower(name)) DO UPDATE SET kind = 'HTTP', arguments_schema = $3 RETURNING id`,
        [someone.userId, name, JSON.stringify(schema)],
      );
      const tool: ExecutableTool = {
        toolId: String(row?.['id']),
        name,
        description: `Can ${name.replaceAll('_', ' ')}.`,
        argumentsSchema: schema,
        dangerous: false,
        approvalPolicy: null,
        timeout: 5_000,
        call: async (values, { idempotencyKey, signal }) => {
          const body = JSON.stringify({ tool: name, arguments: values, key: idempotencyKey } satisfies Effect);
          return (await fetch(url, { method: 'POST', body, signal })).text();
        },
        ...given,
      };
      someone.tools.push(tool);
      return tool;
    },
    send: async ({ user, sessionId, agentId }, content) => {
      const { data, errors } = await user.ask(
        'mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }',
        { input: { sessionId, targetAgentId: agentId, content } },
      );
      if (errors.length > 0) {
        throw new Error(JSON.stringify(errors));
      }
      return data.sendMessage.task.id;
    },
    work: async (given = {}) => {
      let options: WorkOptions = {
        death: null,
        maxTurns: 12,
        resultLength: 20_000,
        signal: new AbortController().signal,
        onStart: () => undefined,
        ...given,
      };
      let first: number | null = null;
      for (;;) {
        const workerId = uuidv7();
        await beat(database, workerId, []);
        const claims = await claimTasks(database, workerId, 10, ['AGENT_RUN']);
        if (claims.length === 0) {
          return first ?? 0;
        }
        const commits = await runOne(claims, options);
        first ??= commits;
        // Those who come after it live on.
        options = { ...options, death: null, onStart: () => undefined };
        await look(`UPDATE workers SET heartbeat_at = now() - interval '1 minute' WHERE id = $1`, [workerId]);
        await rescueTasks(database, 10_000);
      }
    },
    resume: ({ userId }, taskId) => operation(userId).write((write) => resumeTask(write, rowId(taskId))),
    upkeep: () => expireApprovals(database, operation),
    stop: () => all.disposeAsync(),
  };
}

/** A database as a worker sees it that dies: from then on nothing it does reaches the database. */
function createMortalDatabase(
  database: Database,
  death: Death | null,
): { database: Database; commits: () => number; die: () => void } {
  let commits = 0;
  let isDead = false;
  const failWhenDead = (): void => {
    if (isDead) {
      throw new Error('the worker is dead');
    }
  };
  return {
    commits: () => commits,
    die: () => {
      isDead = true;
    },
    database: {
      ...database,
      query: async (...statement) => {
        failWhenDead();
        return database.query(...statement);
      },
      begin: async (mode, userId) => {
        failWhenDead();
        const transaction = await database.begin(mode, userId);
        return {
          ...transaction,
          query: async (...statement) => {
            failWhenDead();
            return transaction.query(...statement);
          },
          commit: async () => {
            if (mode === 'read') {
              return transaction.commit();
            }
            failWhenDead();
            commits += 1;
            isDead = commits === death?.commit;
            if (isDead && death?.when === 'before') {
              failWhenDead();
            }
            await transaction.commit();
            failWhenDead();
          },
        };
      },
    },
  };
}

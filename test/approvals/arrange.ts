import { systemClock } from '../../src/adapters/clock.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createDatabase } from '../../src/adapters/postgres.ts';
import { createChannel } from '../../src/adapters/redis.ts';
import { createOperation, type Operation } from '../../src/operation.ts';
import { beat, claimTasks } from '../../src/queue/claim.ts';
import type { Claim } from '../../src/queue/task.ts';
import type { NewApproval } from '../../src/services/approval.ts';
import { startAttempt, waitForApprovals } from '../../src/services/attempt.ts';
import { expireApprovals } from '../../src/services/upkeep.ts';
import { rowId } from '../isolation/world.ts';
import { startTestService, type TestService, type TestUser } from '../service.ts';

type ToolApproval = Extract<NewApproval, { kind: 'TOOL' }>;

/** A task that waits for its user, as the user's clients see it. */
export interface Waiting {
  user: TestUser;
  userId: string;
  sessionId: string;
  agentId: string;
  toolId: string;
  taskId: string;
  /** In the order of asking. */
  approvalIds: string[];
}

/** The service without a worker: the test is the worker, and does of a run what it wants. */
export interface ApprovalService {
  service: TestService;
  look: TestService['database']['owner'];
  operation(userId: string): Operation;
  /** A new user's task that waits for calls of a tool with these arguments. */
  wait(asked: Partial<ToolApproval>[], given?: { user?: TestUser; sessionId?: string }): Promise<Waiting>;
  /** Claims a task of the user, as a worker does. */
  claim(userId: string): Promise<Claim>;
  /** Makes an approval look as if it had been asked an hour before. */
  age(approvalId: string | undefined): Promise<void>;
  /** One round of the upkeep, as a worker does it. @returns how many were found */
  upkeep(): Promise<number>;
  stop(): Promise<void>;
}

export const mailSchema = {
  type: 'object',
  properties: { to: { type: 'string' } },
  required: ['to'],
  additionalProperties: false,
};

export async function startApprovalService(): Promise<ApprovalService> {
  await using started = new AsyncDisposableStack();
  const service = await startTestService({ worker: false });
  started.defer(() => service.stop());
  const channel = createChannel({ url: null, log: createLog({ level: 'silent' }) });
  started.defer(() => channel.close());
  const database = createDatabase({
    url: service.database.workerUrl,
    poolSize: 5,
    connectionTimeout: 10_000,
    statementTimeout: 10_000,
    applicationName: 'test',
    onError: () => undefined,
  });
  started.defer(() => database.close());
  const look = service.database.owner;
  const workerId = '01a1fc36-7ce8-70c6-b409-82eac1b10aa5';
  const operation = (userId: string) => createOperation({ database, channel, clock: systemClock() }, userId);
  let users = 0;

  const claim = async (userId: string): Promise<Claim> => {
    await beat(database, workerId, []);
    // What earlier tests left in the queue is taken as well, and left alone.
    const claimed = (await claimTasks(database, workerId, 100, ['AGENT_RUN'])).find((one) => one.userId === userId);
    if (claimed === undefined) {
      throw new Error('there is nothing to claim');
    }
    return claimed;
  };
  const all = started.move();
  return {
    service,
    look,
    operation,
    claim,
    wait: async (asked, given = {}) => {
      users += 1;
      const user = given.user ?? (await service.user(`user ${users}`));
      const session = given.sessionId ?? (await openSession(user));
      const { data } = await user.ask('{ viewer { id } agents(first: 1) { edges { node { id } } } }');
      const [userId, agentId] = [rowId(data.viewer.id), data.agents.edges[0].node.id];
      const [tool] = await look(
        `INSERT INTO tools (user_id, name, description, kind, arguments_schema) VALUES ($1, 'mail ' || uuidv7(), '', 'HTTP', $2)
        RETURNING id`,
        [userId, JSON.stringify(mailSchema)],
      );
      const toolId = String(tool?.['id']);
      await send(user, session, agentId);
      const claimed = await claim(userId);
      const approvals = asked.map(
        (one, place): NewApproval => ({
          kind: 'TOOL',
          sessionId: rowId(session),
          taskId: claimed.taskId,
          toolId,
          toolName: 'mail',
          callId: `call_${place}`,
          arguments: { to: `number ${place}` },
          argumentsSchema: mailSchema,
          dangerous: true,
          interrupted: false,
          expiresIn: 300_000,
          ...one,
        }),
      );
      const approvalIds = await operation(userId).write(async (write) => {
        await startAttempt(write, claimed);
        return waitForApprovals(write, claimed, approvals as [NewApproval]);
      });
      const clientId = (noun: string, id: string) => Buffer.from(`${noun}:${id}`).toString('base64url');
      return {
        user,
        userId,
        sessionId: session,
        agentId,
        toolId,
        taskId: clientId('Task', claimed.taskId),
        approvalIds: approvalIds.map((id) => clientId('Approval', id)),
      };
    },
    age: async (approvalId = '') => {
      await look(
        `UPDATE approvals SET created_at = created_at - interval '1 hour', expires_at = expires_at - interval '1 hour'
        WHERE id = $1`,
        [rowId(approvalId)],
      );
    },
    upkeep: () => expireApprovals(database, operation),
    stop: () => all.disposeAsync(),
  };
}

async function openSession(user: TestUser): Promise<string> {
  return (await user.ask('mutation { createSession { session { id } } }')).data.createSession.session.id;
}

async function send(user: TestUser, sessionId: string, targetAgentId: string): Promise<void> {
  const { errors } = await user.ask(
    'mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }',
    { input: { sessionId, targetAgentId, content: 'Send a mail to Ada.' } },
  );
  if (errors.length > 0) {
    throw new Error(JSON.stringify(errors));
  }
}

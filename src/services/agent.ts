import { z } from 'zod';
import { sqlState } from '../adapters/postgres.ts';
import { DomainError, notFound } from '../errors.ts';
import type { ApprovalPolicy } from '../generated/prisma/enums.ts';
import type { AgentModel } from '../generated/prisma/models.ts';
import type { ReadOperation, WriteOperation } from '../operation.ts';
import { addAgentLane, setLaneLimit } from '../queue/lane.ts';
import { setAgentTools } from './agent-tool.ts';
import { parseInput, required, text } from './input.ts';
import { type List, loadPage, type Page, type PageArguments } from './page.ts';
import { checkQuota } from './quota.ts';
import { rowsById, tables } from './table.ts';
import { cancelTasksOfAgent } from './task.ts';

export interface AgentInput {
  name?: string | null | undefined;
  description?: string | null | undefined;
  instructions?: string | null | undefined;
  model?: string | null | undefined;
  temperature?: number | null | undefined;
  approvalPolicy?: ApprovalPolicy | null | undefined;
  approvalTimeoutSeconds?: number | null | undefined;
  maxConcurrentTasks?: number | null | undefined;
  memory?: AgentMemoryInput | null | undefined;
  /** Tools that it shall have; undefined leaves those that it has. */
  toolIds?: readonly string[] | null | undefined;
}

export interface AgentMemoryInput {
  retrieval?: boolean | null | undefined;
  rememberConversations?: boolean | null | undefined;
  maxAgeDays?: number | null | undefined;
  maxBytes?: number | null | undefined;
}

const agentRules = z.object({
  name: text('name')
    .min(1, '`name` may not be empty.')
    .max(80, '`name` may have at most 80 characters.')
    .regex(/^[\p{L}\p{N}][\p{L}\p{N} ._'-]*$/u, "`name` may hold letters, digits, spaces and . _ ' - only."),
  description: text('description').max(1_000, '`description` may have at most 1,000 characters.').optional(),
  instructions: text('instructions')
    .min(1, '`instructions` may not be empty.')
    .max(20_000, '`instructions` may have at most 20,000 characters.'),
  model: text('model')
    .min(1, '`model` may not be empty; leave it out for the default model.')
    .max(200, '`model` may have at most 200 characters.')
    .nullish(),
  temperature: z
    .number()
    .min(0, '`temperature` must be from 0 to 2.')
    .max(2, '`temperature` must be from 0 to 2.')
    .nullish(),
  approvalPolicy: z.enum(['ALWAYS', 'DANGEROUS', 'NEVER'], required('approvalPolicy')).optional(),
  approvalTimeoutSeconds: z
    .int()
    .min(10, '`approvalTimeoutSeconds` must be from 10 to 2,592,000.')
    .max(2_592_000, '`approvalTimeoutSeconds` must be from 10 to 2,592,000.')
    .nullish(),
  maxConcurrentTasks: z
    .int(required('maxConcurrentTasks'))
    .min(1, '`maxConcurrentTasks` must be from 1 to 10.')
    .max(10, '`maxConcurrentTasks` must be from 1 to 10.')
    .optional(),
  memory: z
    .object(
      {
        retrieval: z.boolean(required('retrieval')).optional(),
        rememberConversations: z.boolean(required('rememberConversations')).optional(),
        maxAgeDays: z
          .int()
          .min(1, '`maxAgeDays` must be at least 1.')
          .max(36_500, '`maxAgeDays` may be at most 36,500.')
          .nullish(),
        maxBytes: z.int().min(1, '`maxBytes` must be at least 1.').nullish(),
      },
      required('memory'),
    )
    .optional(),
  toolIds: z.array(z.string(), required('toolIds')).optional(),
});
const agentChangeRules = agentRules.partial({ name: true, instructions: true });

/** The team in alphabetical order would change under a reader's cursor; the order of creation does not. */
const agentList: List<AgentModel> = {
  table: tables.agent,
  order: [{ field: 'id', column: 'id', type: 'uuid' }],
  direction: 'ascending',
};

const loadAgents = rowsById<AgentModel>(tables.agent);

/** The caller's agent of that id, or null. */
export function agentById(operation: ReadOperation, id: string): Promise<AgentModel | null> {
  return operation.load(loadAgents, id);
}

/** The caller's agents, oldest first. */
export function listAgents(operation: ReadOperation, page: PageArguments): Promise<Page<AgentModel>> {
  return loadPage(operation, agentList, page);
}

/**
 * Adds an agent to the caller's team.
 * @throws DomainError BAD_USER_INPUT, NAME_TAKEN, QUOTA_EXCEEDED
 */
export async function createAgent(operation: WriteOperation, input: AgentInput): Promise<{ agentId: string }> {
  const { memory, toolIds, ...values } = parseInput(agentRules, input, 'input');
  const agent = await withFreeName(() =>
    operation.prisma((client) =>
      client.agent.create({
        data: { userId: operation.userId, ...present(values), ...memoryColumns(memory) },
        select: { id: true, maxConcurrentTasks: true },
      }),
    ),
  );
  await addAgentLane(operation, agent.id, agent.maxConcurrentTasks);
  if (toolIds !== undefined) {
    await setAgentTools(operation, agent.id, toolIds);
  }
  await checkQuota(operation, 'AGENTS');
  return { agentId: agent.id };
}

/**
 * Changes the members that are given and leaves the others.
 * @throws DomainError NOT_FOUND, BAD_USER_INPUT, NAME_TAKEN
 */
export async function updateAgent(
  operation: WriteOperation,
  agentId: string,
  input: AgentInput,
): Promise<{ agentId: string }> {
  const { memory, toolIds, ...values } = parseInput(agentChangeRules, input, 'input');
  if (values.maxConcurrentTasks !== undefined) {
    // Lanes are locked before agents, here as everywhere.
    await setLaneLimit(operation, agentId, values.maxConcurrentTasks);
  }
  const { count } = await withFreeName(() =>
    operation.prisma((client) =>
      client.agent.updateMany({
        where: { userId: operation.userId, id: agentId },
        data: { ...present(values), ...memoryColumns(memory), updatedAt: operation.clock.now() },
      }),
    ),
  );
  if (count === 0) {
    throw notFound('agent', 'id');
  }
  if (toolIds !== undefined) {
    await setAgentTools(operation, agentId, toolIds);
  }
  return { agentId };
}

/**
 * Deletes an agent and cancels what it still had to do. Its messages stay in their sessions.
 * @throws DomainError NOT_FOUND
 */
export async function deleteAgent(operation: WriteOperation, agentId: string): Promise<{ deletedAgentId: string }> {
  await cancelTasksOfAgent(operation, agentId, 'id');
  const { count } = await operation.prisma((client) =>
    client.agent.deleteMany({ where: { userId: operation.userId, id: agentId } }),
  );
  if (count === 0) {
    throw notFound('agent', 'id');
  }
  return { deletedAgentId: agentId };
}

function memoryColumns(memory: z.output<typeof agentRules>['memory']) {
  return present({
    memoryRetrieval: memory?.retrieval,
    memoryConversations: memory?.rememberConversations,
    memoryMaxAgeDays: memory?.maxAgeDays,
    memoryMaxBytes: typeof memory?.maxBytes === 'number' ? BigInt(memory.maxBytes) : memory?.maxBytes,
  });
}

type Present<Value> = { [Member in keyof Value]: Exclude<Value[Member], undefined> };

/** Leaves out members that were not given, which the strict types keep apart from members that are undefined. */
function present<Value extends object>(value: Value): Present<Value> {
  return Object.fromEntries(Object.entries(value).filter(([, member]) => member !== undefined)) as Present<Value>;
}

async function withFreeName<Result>(work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    if (sqlState(error) === '23505') {
      throw new DomainError('NAME_TAKEN', 'You already have an agent of that name.', { field: 'input.name' });
    }
    throw error;
  }
}

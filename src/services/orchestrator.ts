import { z } from 'zod';
import { statement } from '../adapters/postgres.ts';
import { DomainError, notFound } from '../errors.ts';
import type { ApprovalPolicy } from '../generated/prisma/enums.ts';
import type { OrchestratorModel } from '../generated/prisma/models.ts';
import type { ReadOperation, WriteOperation } from '../operation.ts';
import { addOrchestratorLane } from '../queue/lane.ts';
import { parseInput, required, text } from './input.ts';
import { rowsById, tables } from './table.ts';

export interface OrchestratorInput {
  name?: string | null | undefined;
  instructions?: string | null | undefined;
  model?: string | null | undefined;
  planApprovalPolicy?: ApprovalPolicy | null | undefined;
  maxPlanTasks?: number | null | undefined;
  maxUnapprovedTasks?: number | null | undefined;
}

const rules = z
  .object({
    name: text('name').min(1, '`name` may not be empty.').max(80, '`name` may have at most 80 characters.'),
    instructions: text('instructions')
      .min(1, '`instructions` may not be empty.')
      .max(20_000, '`instructions` may have at most 20,000 characters.'),
    model: text('model')
      .min(1, '`model` may not be empty; give null for the default model.')
      .max(200, '`model` may have at most 200 characters.')
      .nullable(),
    planApprovalPolicy: z.enum(['ALWAYS', 'DANGEROUS', 'NEVER'], required('planApprovalPolicy')),
    maxPlanTasks: z
      .int(required('maxPlanTasks'))
      .min(1, '`maxPlanTasks` must be from 1 to 100.')
      .max(100, '`maxPlanTasks` must be from 1 to 100.'),
    maxUnapprovedTasks: z
      .int(required('maxUnapprovedTasks'))
      .min(0, '`maxUnapprovedTasks` must be from 0 to 100.')
      .max(100, '`maxUnapprovedTasks` must be from 0 to 100.'),
  })
  .partial();

const loadOrchestrators = rowsById<OrchestratorModel>(tables.orchestrator);

const insert = statement<{ id: string }>(
  `INSERT INTO orchestrators (user_id, name, instructions) VALUES ($1, $2, $3) RETURNING id`,
);
// The one that new users get is the one they have.
const own = statement<OrchestratorModel & Record<string, unknown>>(
  `SELECT ${tables.orchestrator.columns} FROM orchestrators WHERE user_id = $1 ORDER BY id LIMIT 1`,
);

const ownOfTeam = statement<{ id: string; hasAgents: boolean }>(`
  SELECT id, EXISTS (SELECT FROM agents WHERE agents.user_id = $1) AS "hasAgents"
  FROM orchestrators WHERE user_id = $1 ORDER BY id LIMIT 1`);

/** The caller's orchestrator of that id, or null. */
export function orchestratorById(operation: ReadOperation, id: string): Promise<OrchestratorModel | null> {
  return operation.load(loadOrchestrators, id);
}

/** The caller's orchestrator. Every user has one from the first sign-in on. @throws DomainError NOT_FOUND */
export async function currentOrchestrator(operation: ReadOperation): Promise<OrchestratorModel> {
  const [orchestrator] = await operation.query(own, [operation.userId]);
  if (orchestrator === undefined) {
    throw notFound('orchestrator');
  }
  return orchestrator;
}

/** The id of the caller's orchestrator. @throws DomainError NO_AGENTS when it has nobody to give tasks to, NOT_FOUND */
export async function orchestratorOfTeam(operation: ReadOperation): Promise<string> {
  const [orchestrator] = await operation.query(ownOfTeam, [operation.userId]);
  if (orchestrator === undefined) {
    throw notFound('orchestrator');
  }
  if (!orchestrator.hasAgents) {
    throw new DomainError('NO_AGENTS', 'Your team has no agents. Create one first.');
  }
  return orchestrator.id;
}

/** Makes the caller's orchestrator, with its place in the task engine. */
export async function createOrchestrator(
  operation: WriteOperation,
  { name, instructions }: { name: string; instructions: string },
): Promise<void> {
  const [row] = await operation.query(insert, [operation.userId, name, instructions]);
  if (row === undefined) {
    throw new Error('the orchestrator was not stored');
  }
  await addOrchestratorLane(operation, row.id);
}

/** Changes the members that are given and leaves the others. @throws DomainError BAD_USER_INPUT */
export async function updateOrchestrator(
  operation: WriteOperation,
  input: OrchestratorInput,
): Promise<{ orchestratorId: string }> {
  const values = parseInput(rules, input, 'input');
  const { id } = await currentOrchestrator(operation);
  const given = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
  await operation.prisma((client) =>
    client.orchestrator.updateMany({
      where: { userId: operation.userId, id },
      data: { ...given, updatedAt: operation.clock.now() },
    }),
  );
  return { orchestratorId: id };
}

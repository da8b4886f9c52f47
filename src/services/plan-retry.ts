import { v7 as uuidv7 } from 'uuid';
import { statement } from '../adapters/postgres.ts';
import { DomainError, notFound } from '../errors.ts';
import type { PlanState } from '../generated/prisma/enums.ts';
import type { PlanModel } from '../generated/prisma/models.ts';
import type { WriteOperation } from '../operation.ts';
import { checkRoom, enqueueGraph, lockForGraph } from '../queue/graph.ts';
import { currentOrchestrator } from './orchestrator.ts';
import { graphOf, type PlanTasks, planById, taskGraph, tasksOfPlan } from './plan.ts';
import { checkQuota } from './quota.ts';
import { lockOpenSession } from './session.ts';

const stateOf = statement<{ state: PlanState; same: boolean }>(`
  SELECT state, graph IS NOT DISTINCT FROM $3::jsonb AS same FROM plans WHERE user_id = $1 AND id = $2`);
const reopen = statement(`
  UPDATE plans SET state = $3, finished_at = NULL, updated_at = clock_timestamp(),
    graph = CASE WHEN $4 THEN NULL ELSE graph END
  WHERE user_id = $1 AND id = $2`);

/**
 * Runs again what failed, was cancelled or was skipped of a plan, and composes the answer anew; what is completed stays.
 * A plan that never ran is approved or made once more.
 * @throws DomainError NOT_FOUND, PLAN_NOT_RETRYABLE, SESSION_EXPIRED, AGENT_QUEUE_FULL, QUOTA_EXCEEDED
 */
export async function retryPlan(operation: WriteOperation, planId: string): Promise<{ planId: string }> {
  const plan = await planById(operation, planId);
  if (plan === null) {
    throw notFound('plan', 'id');
  }
  const orchestratorId = plan.orchestratorId ?? (await currentOrchestrator(operation)).id;
  const nodes = graphOf(plan)?.tasks ?? [];
  await lockForGraph(operation, [orchestratorId, ...new Set(nodes.map((node) => node.agentId))], null);
  await lockOpenSession(operation, plan.sessionId, 'id');
  // Whoever ends a plan or its tasks holds its orchestrator's lane: from here on they stand still.
  const [current] = await operation.query(stateOf, [
    operation.userId,
    planId,
    plan.graph === null ? null : JSON.stringify(plan.graph),
  ]);
  if (current?.same !== true || !['FAILED', 'CANCELLED', 'EXPIRED'].includes(current.state)) {
    throw new DomainError('PLAN_NOT_RETRYABLE', `The plan is ${current?.state ?? 'gone'}.`, { field: 'id' });
  }
  const tasks = await tasksOfPlan(operation, planId);
  await (tasks.runs.size === 0
    ? planAgain(operation, plan, tasks, orchestratorId)
    : runAgain(operation, plan, tasks, orchestratorId));
  operation.emit({ type: 'plan_retried', sessionId: plan.sessionId, planId });
  await checkQuota(operation, 'CONCURRENT_TASKS');
  return { planId };
}

async function runAgain(
  operation: WriteOperation,
  plan: PlanModel,
  { planning, runs }: PlanTasks,
  orchestratorId: string,
): Promise<void> {
  const nodes = graphOf(plan)?.tasks ?? [];
  const done = new Map([...runs].flatMap(([key, task]) => (task.state === 'COMPLETED' ? [[key, task.id]] : [])));
  const again = nodes.filter((node) => !done.has(node.key));
  const lanes = Map.groupBy(again, (node) => node.agentId);
  const wanted = new Map([...lanes].map(([lane, own]) => [lane, own.length]));
  const gone = await checkRoom(operation, wanted.set(orchestratorId, 1));
  if (gone.length > 0) {
    throw new DomainError('PLAN_NOT_RETRYABLE', 'An agent of the plan was deleted.', { field: 'id' });
  }
  const ids = new Map(again.map((node) => [node.key, uuidv7()]));
  const place = { messageId: planning?.messageId ?? null, sessionOrder: planning?.sessionOrder ?? null };
  await enqueueGraph(
    operation,
    taskGraph(plan, { ...place, ...operation.origin }, orchestratorId, { nodes, ids, done }),
  );
  await operation.query(reopen, [operation.userId, plan.id, 'RUNNING', false]);
}

async function planAgain(
  operation: WriteOperation,
  plan: PlanModel,
  { planning }: PlanTasks,
  orchestratorId: string,
): Promise<void> {
  const agentIds = new Set((graphOf(plan)?.tasks ?? []).map((node) => node.agentId));
  await checkRoom(operation, new Map([[orchestratorId, 1]]));
  const gone = await checkRoom(operation, new Map([...agentIds].map((id) => [id, 0])));
  await enqueueGraph(operation, [
    {
      id: uuidv7(),
      kind: 'PLAN',
      laneId: orchestratorId,
      agentId: null,
      sessionId: plan.sessionId,
      messageId: planning?.messageId ?? null,
      planId: plan.id,
      sessionOrder: planning?.sessionOrder ?? null,
      input: {},
      ...operation.origin,
      parents: [],
    },
  ]);
  // A plan over an agent that is gone is of no use: it is made anew.
  await operation.query(reopen, [operation.userId, plan.id, 'PLANNING', gone.length > 0]);
}

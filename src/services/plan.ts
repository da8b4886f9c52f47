import { v7 as uuidv7 } from 'uuid';
import { statement } from '../adapters/postgres.ts';
import { DomainError, notFound } from '../errors.ts';
import type { MessageModel, PlanModel, TaskModel } from '../generated/prisma/models.ts';
import type { BatchLoad, ReadOperation, WriteOperation } from '../operation.ts';
import type { GraphTask } from '../queue/graph.ts';
import { takenTurn } from '../queue/task.ts';
import { loadTaskResults } from './assignment.ts';
import { childPages, type List, loadChildPage, type Page, type PageArguments } from './page.ts';
import type { PlanNode } from './plan-draft.ts';
import { drawPlan } from './plan-mermaid.ts';
import { rowsById, tables } from './table.ts';
import { cancelAll } from './task.ts';

/** A plan's tasks as they are stored with it, each after those it depends on. */
export interface PlanGraph {
  tasks: PlanNode[];
  /** Whether the user is to be asked. Settled when the plan was made, and never weighed again. */
  asks: boolean;
}

/** A task of a plan: as planned, and the task that does it. */
export interface PlanTask extends PlanNode {
  /** Null until the plan runs; after a retry the newest. */
  task: TaskModel | null;
}

/** The newest tasks of a plan. */
export interface PlanTasks {
  planning: TaskModel | null;
  /** By the keys of the plan. */
  runs: Map<string, TaskModel>;
  composing: TaskModel | null;
}

const planList: List<PlanModel> = {
  table: tables.plan,
  order: [{ field: 'id', column: 'id', type: 'uuid' }],
  direction: 'descending',
};

const loadPlans = rowsById<PlanModel>(tables.plan);
const loadSessionPlans = childPages(planList, 'session_id');
const loadResults: BatchLoad<string, string | null> = loadTaskResults;

const insert = statement<PlanModel & Record<string, unknown>>(`
  INSERT INTO plans (user_id, id, session_id, orchestrator_id, request)
  SELECT $1, $2, $3, $4, $5 FROM (${takenTurn('$3')}) AS turn RETURNING ${tables.plan.columns}`);
const newestTasks = statement<TaskModel & Record<string, unknown>>(`
  SELECT DISTINCT ON (plan_id, kind, input ->> 'key') ${tables.task.columns} FROM tasks
  WHERE user_id = $1 AND plan_id = ANY ($2::uuid[])
  ORDER BY plan_id, kind, input ->> 'key', id DESC`);
const newestMessages = statement<MessageModel & Record<string, unknown>>(`
  SELECT DISTINCT ON (plan_id, role) ${tables.message.columns} FROM messages
  WHERE user_id = $1 AND plan_id = ANY ($2::uuid[])
  ORDER BY plan_id, role, position DESC`);

const loadTasksOfPlans: BatchLoad<string, PlanTasks> = async (operation, planIds) => {
  const rows = await operation.query(newestTasks, [operation.userId, planIds]);
  const byPlan = Map.groupBy(rows, (task) => task.planId);
  return planIds.map((planId) => {
    const tasks = byPlan.get(planId) ?? [];
    return {
      planning: tasks.find((task) => task.kind === 'PLAN') ?? null,
      composing: tasks.find((task) => task.kind === 'COMPOSE') ?? null,
      runs: new Map(tasks.flatMap((task) => (task.kind === 'AGENT_RUN' ? [[keyOf(task), task]] : []))),
    };
  });
};
const loadMessagesOfPlans: BatchLoad<string, MessageModel[]> = async (operation, planIds) => {
  const rows = await operation.query(newestMessages, [operation.userId, planIds]);
  const byPlan = Map.groupBy(rows, (message) => message.planId);
  return planIds.map((planId) => byPlan.get(planId) ?? []);
};

function keyOf(task: TaskModel): string {
  return (task.input as { key: string }).key;
}

/** The caller's plan of that id, or null. */
export function planById(operation: ReadOperation, id: string): Promise<PlanModel | null> {
  return operation.load(loadPlans, id);
}

/** Adds a plan that is yet to be made, in the turn that the caller's transaction has taken in its session; nothing without one. */
export async function addPlan(
  operation: WriteOperation,
  { id, sessionId, orchestratorId, request }: Pick<PlanModel, 'id' | 'sessionId' | 'orchestratorId' | 'request'>,
): Promise<void> {
  const [plan] = await operation.query(insert, [operation.userId, id, sessionId, orchestratorId, request]);
  if (plan !== undefined) {
    operation.keep(loadPlans, plan);
  }
}

/** A session's plans, newest first. Pages of many sessions are read in one statement. */
export function listSessionPlans(
  operation: ReadOperation,
  sessionId: string,
  page: PageArguments,
): Promise<Page<PlanModel>> {
  return loadChildPage(operation, loadSessionPlans, sessionId, page);
}

/** The plan's graph; null while it is being made. */
export function graphOf(plan: PlanModel): PlanGraph | null {
  return plan.graph as unknown as PlanGraph | null;
}

/** The newest tasks of a plan, whatever they are for. */
export function tasksOfPlan(operation: ReadOperation, planId: string): Promise<PlanTasks> {
  return operation.load(loadTasksOfPlans, planId);
}

/** The plan's tasks in an order in which each stands behind those it depends on; empty while it is being made. */
export async function listPlanTasks(operation: ReadOperation, plan: PlanModel): Promise<PlanTask[]> {
  return plannedTasks(plan, await tasksOfPlan(operation, plan.id));
}

/** The plan's tasks as `listPlanTasks` gives them, of what is known already. */
export function plannedTasks(plan: PlanModel, { runs }: PlanTasks): PlanTask[] {
  return (graphOf(plan)?.tasks ?? []).map((node) => ({ ...node, task: runs.get(node.key) ?? null }));
}

/** What a task of a plan came to; null when it has not. Those of many tasks are read in one statement. */
export function taskResult(operation: ReadOperation, taskId: string): Promise<string | null> {
  return operation.load(loadResults, taskId);
}

/** The message that the plan is for, and the newest answer that came of it. */
export async function messagesOfPlan(
  operation: ReadOperation,
  planId: string,
): Promise<{ request: MessageModel | null; answer: MessageModel | null }> {
  const messages = await operation.load(loadMessagesOfPlans, planId);
  const of = (role: MessageModel['role']) => messages.find((message) => message.role === role) ?? null;
  return { request: of('USER'), answer: of('ORCHESTRATOR') };
}

/** How far a plan is, from 0 to 1: the mean of its tasks and its answer, each of them done when it has ended. */
export async function planProgress(operation: ReadOperation, plan: PlanModel): Promise<number> {
  if (plan.finishedAt !== null) {
    return 1;
  }
  const { runs, composing } = await tasksOfPlan(operation, plan.id);
  const tasks = [...runs.values(), ...(composing === null ? [] : [composing])];
  const done = tasks.reduce((sum, task) => sum + (task.finishedAt === null ? task.progress : 1), 0);
  return tasks.length === 0 ? 0 : done / tasks.length;
}

/** The plan as a Mermaid flowchart, coloured by the states of its tasks. */
export async function planMermaid(operation: ReadOperation, plan: PlanModel): Promise<string> {
  const tasks = await listPlanTasks(operation, plan);
  return drawPlan(tasks.map(({ task, agent, ...node }) => ({ ...node, agentName: agent, state: task?.state ?? null })));
}

/**
 * Cancels what a plan has open. What its tasks came to stays.
 * @throws DomainError NOT_FOUND, PLAN_ENDED
 */
export async function cancelPlan(operation: WriteOperation, planId: string): Promise<{ planId: string }> {
  const plan = await planById(operation, planId);
  if (plan === null) {
    throw notFound('plan', 'id');
  }
  const cancelled = await cancelAll(operation, { planId });
  if (cancelled === 0) {
    throw new DomainError('PLAN_ENDED', 'The plan has already ended.', { field: 'id' });
  }
  return { planId };
}

/**
 * The tasks that do a plan, or the part of it that is to be done again: one for each of its own, and one that makes an
 * answer of what all of them came to, whatever became of them.
 * @param planning gives the message that is answered, its turn in the session, and the request that it came from
 * @param choice the ids of tasks to be made by their keys, and those of tasks that are completed
 */
export function taskGraph(
  plan: PlanModel,
  planning: Pick<TaskModel, 'messageId' | 'sessionOrder' | 'requestId' | 'traceparent'>,
  orchestratorId: string,
  choice: { nodes: readonly PlanNode[]; ids: ReadonlyMap<string, string>; done: ReadonlyMap<string, string> },
): GraphTask[] {
  const { nodes, ids, done } = choice;
  const { messageId, sessionOrder, requestId, traceparent } = planning;
  const shared = { sessionId: plan.sessionId, messageId, planId: plan.id, sessionOrder, requestId, traceparent };
  const parents = (keys: readonly string[], needsSuccess: boolean) =>
    keys.flatMap((key) => {
      const id = ids.get(key) ?? done.get(key);
      return id === undefined ? [] : [{ id, needsSuccess }];
    });
  const runs = nodes.flatMap(({ key, agentId, instruction, dependsOn }) => {
    const id = ids.get(key);
    const own = { kind: 'AGENT_RUN', laneId: agentId, agentId, input: { key, instruction } };
    return id === undefined ? [] : [{ ...shared, ...own, id, parents: parents(dependsOn, true) }];
  });
  const keys = nodes.map((node) => node.key);
  const own = { kind: 'COMPOSE', laneId: orchestratorId, agentId: null, input: {} };
  return [...runs, { ...shared, ...own, id: uuidv7(), parents: parents(keys, false) }];
}

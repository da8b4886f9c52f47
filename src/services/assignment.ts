import { statement } from '../adapters/postgres.ts';
import type { ReadOperation } from '../operation.ts';
import type { TaskFacts } from '../queue/successor.ts';
import { callInput } from './agent-call.ts';

/** What a plan, or another agent, wants of an agent. */
export interface Assignment {
  instruction: string;
  /** Whether it is a question of another agent, to be answered to that. */
  isQuestion?: boolean;
  /** What the tasks before came to, in the order of the plan. */
  results: TaskResult[];
}

export interface TaskResult {
  taskId: string;
  /** Name that the agent has now; null when it was deleted. */
  agentName: string | null;
  content: string;
}

const lastAnswer = `(
  SELECT step.output ->> 'content' FROM task_steps AS step
  WHERE step.user_id = tasks.user_id AND step.task_id = tasks.id AND step.kind = 'MODEL'
  ORDER BY step.position DESC LIMIT 1
)`;
const parents = statement<TaskResult & Record<string, unknown>>(`
  SELECT tasks.id AS "taskId", agents.name AS "agentName", coalesce(${lastAnswer}, '') AS content
  FROM task_dependencies AS link
  JOIN tasks ON tasks.user_id = link.user_id AND tasks.id = link.parent_id
  LEFT JOIN agents ON agents.user_id = tasks.user_id AND agents.id = tasks.agent_id
  WHERE link.user_id = $1 AND link.task_id = $2 AND tasks.state = 'COMPLETED'
  ORDER BY tasks.id`);
const answers = statement<{ taskId: string; content: string | null }>(`
  SELECT tasks.id AS "taskId", ${lastAnswer} AS content FROM tasks
  WHERE tasks.user_id = $1 AND tasks.id = ANY ($2::uuid[]) AND tasks.state = 'COMPLETED'`);
const answersOfPlan = statement<{ taskId: string; content: string | null }>(`
  SELECT tasks.id AS "taskId", ${lastAnswer} AS content FROM tasks
  WHERE tasks.user_id = $1 AND tasks.plan_id = $2 AND tasks.state = 'COMPLETED'`);

/**
 * What a task of a plan is to do, with the results of the tasks before it, or what another agent asks; null for a task
 * that answers a message.
 */
export async function loadAssignment(operation: ReadOperation, task: TaskFacts): Promise<Assignment | null> {
  const call = callInput(task);
  if (call !== null) {
    return { instruction: call.question, results: [], isQuestion: true };
  }
  if (task.planId === null) {
    return null;
  }
  const { instruction } = task.input as { instruction: string };
  return { instruction, results: await operation.query(parents, [operation.userId, task.id]) };
}

/** What completed tasks came to: the model's last answer, as it was stored. Null for tasks that are not completed. */
export async function loadTaskResults(
  operation: ReadOperation,
  taskIds: readonly string[],
): Promise<(string | null)[]> {
  const rows = await operation.query(answers, [operation.userId, taskIds]);
  const byTask = new Map(rows.map((row) => [row.taskId, row.content]));
  return taskIds.map((id) => byTask.get(id) ?? null);
}

/** What the completed tasks of a plan came to, by the ids of the tasks. */
export async function loadPlanResults(
  operation: ReadOperation,
  planId: string,
): Promise<ReadonlyMap<string, string | null>> {
  const rows = await operation.query(answersOfPlan, [operation.userId, planId]);
  return new Map(rows.map((row) => [row.taskId, row.content]));
}

/** One task of a plan as a planner writes it. */
export interface PlannedTask {
  /** Name of the task within its plan. */
  key: string;
  /** Name of the agent that shall do it. */
  agent: string;
  instruction: string;
  /** Keys of the tasks whose results it needs. */
  dependsOn: readonly string[];
  /** Why the planner wants it, for the user to read. */
  why: string;
}

/** Why a plan can't be run. */
export interface PlanFault {
  kind: 'EMPTY' | 'TOO_MANY_TASKS' | 'DUPLICATE_KEY' | 'UNKNOWN_AGENT' | 'UNKNOWN_DEPENDENCY' | 'CYCLE';
  message: string;
}

export type CheckedPlan<Task extends PlannedTask = PlannedTask> =
  | { ok: true; order: Task[] }
  | { ok: false; fault: PlanFault };

/**
 * Checks a plan against a team and puts its tasks in an order in which every task comes after those it depends on;
 * among the free ones the planner's own order stands (Kahn, 1962, https://doi.org/10.1145/368996.369025).
 * @param agentNames names of the team; compared whatever their case
 */
export function checkPlan<Task extends PlannedTask>(
  tasks: readonly Task[],
  agentNames: readonly string[],
  maxTasks: number,
): CheckedPlan<Task> {
  const fault = findFault(tasks, agentNames, maxTasks);
  if (fault !== null) {
    return { ok: false, fault };
  }
  const order = sortByDependency(tasks);
  return order.length === tasks.length
    ? { ok: true, order }
    : { ok: false, fault: { kind: 'CYCLE', message: `Tasks wait for each other: ${waitingKeys(tasks, order)}.` } };
}

function findFault(tasks: readonly PlannedTask[], agentNames: readonly string[], maxTasks: number): PlanFault | null {
  if (tasks.length === 0) {
    return { kind: 'EMPTY', message: 'The plan has no tasks.' };
  }
  if (tasks.length > maxTasks) {
    return { kind: 'TOO_MANY_TASKS', message: `The plan has ${tasks.length} tasks; at most ${maxTasks} are allowed.` };
  }
  const team = new Set(agentNames.map((name) => name.toLowerCase()));
  const keys = new Set<string>();
  for (const task of tasks) {
    if (keys.has(task.key)) {
      return { kind: 'DUPLICATE_KEY', message: `Two tasks are called "${task.key}".` };
    }
    keys.add(task.key);
    if (!team.has(task.agent.toLowerCase())) {
      return { kind: 'UNKNOWN_AGENT', message: `Task "${task.key}" names an agent that is not in the team.` };
    }
  }
  for (const task of tasks) {
    const missing = task.dependsOn.find((key) => !keys.has(key));
    if (missing !== undefined) {
      return {
        kind: 'UNKNOWN_DEPENDENCY',
        message: `Task "${task.key}" depends on a task that the plan does not have.`,
      };
    }
  }
  return null;
}

function sortByDependency<Task extends PlannedTask>(tasks: readonly Task[]): Task[] {
  const order: Task[] = [];
  const done = new Set<string>();
  let waiting = [...tasks];
  // Each round puts at least one task in order, or the rest is a cycle.
  for (;;) {
    const free = waiting.filter((task) => task.dependsOn.every((key) => done.has(key)));
    if (free.length === 0) {
      return order;
    }
    for (const task of free) {
      order.push(task);
      done.add(task.key);
    }
    waiting = waiting.filter((task) => !done.has(task.key));
  }
}

function waitingKeys(tasks: readonly PlannedTask[], order: readonly PlannedTask[]): string {
  const done = new Set(order.map((task) => task.key));
  return tasks
    .filter((task) => !done.has(task.key))
    .map((task) => task.key)
    .join(', ');
}

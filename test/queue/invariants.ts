import type { TestDatabase } from '../service.ts';
import { auditCounts } from './audit.ts';

/** Looks at the whole queue from time to time and remembers what it saw. */
export interface Watch {
  /** @returns a line for each invariant that does not hold, now or against what was seen before */
  look(): Promise<string[]>;
  /** The task as the last look saw it. */
  seen(taskId: string): Seen | undefined;
}

interface Seen {
  id: string;
  state: string;
  attempt: number;
  finishedAt: string | null;
}

const finalStates = `('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED')`;

/** What must hold at any moment at which nobody is in the middle of a commit. Each query gives the lines at fault. */
const rules = [
  // One final event for a task that has ended, none for one that has not.
  `SELECT format('task %s is %s and has %s final events', tasks.id, tasks.state, count(events.sequence))
  FROM tasks
  LEFT JOIN events ON events.user_id = tasks.user_id AND events.data ->> 'taskId' = tasks.id::text
    AND (events.type IN ('task_completed', 'task_cancelled', 'task_skipped')
      OR events.type = 'task_failed' AND NOT (events.data ->> 'willRetry')::boolean)
  GROUP BY tasks.user_id, tasks.id
  HAVING count(events.sequence) <> (tasks.state IN ${finalStates})::int`,
  // Blocked means that a parent is still to be completed, and that it can be; or to end, where its end is all that counts.
  `SELECT format('task %s is %s with parents %s', child.id, child.state, array_agg(parent.state))
  FROM tasks AS child
  JOIN task_dependencies AS link ON link.user_id = child.user_id AND link.task_id = child.id
  JOIN tasks AS parent ON parent.user_id = link.user_id AND parent.id = link.parent_id
  WHERE child.state NOT IN ${finalStates}
  GROUP BY child.user_id, child.id
  HAVING (child.state = 'BLOCKED')
      <> bool_or(parent.state <> 'COMPLETED' AND (link.needs_success OR parent.state NOT IN ${finalStates}))
    OR bool_or(link.needs_success AND parent.state IN ('FAILED', 'CANCELLED', 'SKIPPED'))`,
  `SELECT format('task %s is BLOCKED without a parent', id) FROM tasks
  WHERE state = 'BLOCKED' AND NOT EXISTS (SELECT FROM task_dependencies WHERE task_id = tasks.id)`,
  `SELECT format('task %s was skipped although it needs no success', child.id)
  FROM tasks AS child
  WHERE child.state = 'SKIPPED' AND NOT EXISTS (
    SELECT FROM task_dependencies AS link WHERE link.user_id = child.user_id AND link.task_id = child.id AND link.needs_success
  )`,
  `SELECT format('task %s was completed although parent %s was not', child.id, parent.id)
  FROM tasks AS child
  JOIN task_dependencies AS link ON link.user_id = child.user_id AND link.task_id = child.id
  JOIN tasks AS parent ON parent.user_id = link.user_id AND parent.id = link.parent_id
  WHERE child.attempt > 0 AND parent.state <> 'COMPLETED' AND (link.needs_success OR parent.state NOT IN ${finalStates})`,
  // The numbers of a user's events have no gap and no repeat.
  `SELECT format('user %s has %s events up to number %s of %s', users.id, count(events.sequence), max(events.sequence), event_sequence)
  FROM users LEFT JOIN events ON events.user_id = users.id
  GROUP BY users.id
  HAVING count(events.sequence) <> event_sequence OR coalesce(max(events.sequence), 0) <> event_sequence`,
  // Nothing runs before an earlier task of its session has ended.
  `SELECT format('task %s runs before %s of its session', later.id, earlier.id)
  FROM tasks AS later
  JOIN tasks AS earlier ON earlier.user_id = later.user_id AND earlier.session_id = later.session_id
    AND earlier.session_order < later.session_order AND earlier.state NOT IN ${finalStates}
  WHERE later.state = 'RUNNING'`,
  // An answer for each completed task of a session, and for no other.
  `SELECT format('task %s is %s and has %s answers', tasks.id, tasks.state, count(messages.id))
  FROM tasks LEFT JOIN messages ON messages.user_id = tasks.user_id AND messages.task_id = tasks.id
  GROUP BY tasks.user_id, tasks.id
  HAVING count(messages.id) <> (tasks.state = 'COMPLETED' AND tasks.session_id IS NOT NULL)::int`,
  `SELECT format('task %s is %s with worker %s, finished %s, waiting %s', id, state, worker_id, finished_at, waiting_since)
  FROM tasks
  WHERE (worker_id IS NOT NULL) <> (state = 'RUNNING') OR (finished_at IS NOT NULL) <> (state IN ${finalStates})
    OR (waiting_since IS NOT NULL) <> (state = 'WAITING')`,
  // Nobody is asked for a task that has ended.
  `SELECT format('approval %s is pending for task %s, which is %s', approvals.id, tasks.id, tasks.state)
  FROM approvals JOIN tasks ON tasks.user_id = approvals.user_id AND tasks.id = approvals.task_id
  WHERE approvals.state = 'PENDING' AND tasks.state IN ${finalStates}`,
  // Each question was told of when it was asked and when it was settled, once.
  `SELECT format('approval %s is %s and has events %s', approvals.id, approvals.state, array_agg(events.type))
  FROM approvals
  LEFT JOIN events ON events.user_id = approvals.user_id AND events.data ->> 'approvalId' = approvals.id::text
  GROUP BY approvals.user_id, approvals.id
  HAVING count(*) FILTER (WHERE events.type = 'approval_required') <> 1
    OR count(*) FILTER (WHERE events.type = 'approval_resolved') <> (approvals.state <> 'PENDING')::int
    OR (approvals.state = 'PENDING') <> (approvals.decided_at IS NULL)`,
];

/** Holds where tasks wait for nothing but their users: a task whose last question is settled does not wait any more. */
export const waitingRule = `
  SELECT format('task %s waits for nothing', tasks.id) AS line FROM tasks
  WHERE tasks.state = 'WAITING' AND NOT EXISTS (
    SELECT FROM approvals
    WHERE approvals.user_id = tasks.user_id AND approvals.task_id = tasks.id AND approvals.state = 'PENDING'
  )`;

export function createWatch(database: Pick<TestDatabase, 'owner'>): Watch {
  let before = new Map<string, Seen>();
  return {
    seen: (taskId) => before.get(taskId),
    look: async () => {
      const [counts, broken, tasks] = await Promise.all([
        auditCounts(database),
        database.owner(rules.map((rule) => `SELECT * FROM (${rule}) AS rule (line)`).join(' UNION ALL ')),
        database.owner('SELECT id, state, attempt, finished_at::text AS "finishedAt" FROM tasks'),
      ]);
      const now = new Map((tasks as unknown as Seen[]).map((task) => [task.id, task]));
      const changed = [...before.values()].flatMap((was) => {
        const is = now.get(was.id);
        if (is === undefined) {
          return [`task ${was.id} is gone`];
        }
        const isAnotherEnd = was.finishedAt !== null && (is.state !== was.state || is.finishedAt !== was.finishedAt);
        return [
          ...(isAnotherEnd ? [`task ${was.id} had ended ${was.state} and is ${is.state}`] : []),
          ...(is.attempt < was.attempt ? [`task ${was.id} fell from attempt ${was.attempt} to ${is.attempt}`] : []),
        ];
      });
      before = now;
      return [...counts, ...broken.map((row) => String(row['line'])), ...changed];
    },
  };
}

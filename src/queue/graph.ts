import { statement } from '../adapters/postgres.ts';
import { DomainError } from '../errors.ts';
import { type WriteOperation, writeTogether } from '../operation.ts';
import { type BegunTask, letBegin, type Successor, successorValues } from './successor.ts';

/** A task of a graph. Its id is chosen by the caller, so that others can name it as their parent. */
export interface GraphTask {
  id: string;
  kind: string;
  laneId: string;
  agentId: string | null;
  sessionId: string;
  messageId: string | null;
  planId: string;
  /** Tasks of a graph share the turn of the message that they answer, so that they run beside each other. */
  sessionOrder: number | null;
  input: Record<string, unknown>;
  /** Where the graph came from, for those who follow a request through its tasks. */
  requestId: string | null;
  traceparent: string | null;
  parents: readonly GraphParent[];
}

export interface GraphParent {
  /** A task of the same graph, or one that is completed. */
  id: string;
  /** Whether the child is skipped when the parent does not succeed, or waits for its end alone. */
  needsSuccess: boolean;
}

const lock = statement(`SELECT 1 FROM queue.lock_for_end($1::uuid[], NULL, NULL, NULL, $2::uuid[])`);
const room = statement<{ id: string; free: number; limit: number }>(`
  SELECT id, max_waiting - blocked - queued - retrying AS free, max_waiting AS limit FROM lanes
  WHERE user_id = $1 AND id = ANY ($2::uuid[])`);
// Whoever has just ended the attempt that made the graph goes on with tasks of it, within the limits of lane and user. Tasks of a
// graph share its turn, so that no other task of the session is before them.
const insert = statement<BegunTask & Record<string, unknown>>(`
  WITH item AS (
    SELECT task.*, tenant.free, lane.free AS lane_free,
      row_number() OVER (PARTITION BY task.state ORDER BY task.id) AS place,
      row_number() OVER (PARTITION BY task.state, task."laneId" ORDER BY task.id) AS lane_place
    FROM jsonb_to_recordset($2::jsonb) AS task (
      id uuid, kind text, "laneId" uuid, "agentId" uuid, "sessionId" uuid, "messageId" uuid, "planId" uuid,
      "sessionOrder" integer, input jsonb, "requestId" text, traceparent text, state task_state
    )
    LEFT JOIN (
      SELECT least($4::integer, max_running - running) AS free FROM tenants WHERE user_id = $1 AND queued = 0
    ) AS tenant ON true
    LEFT JOIN (SELECT id, max_running - running AS free FROM lanes WHERE user_id = $1) AS lane ON lane.id = task."laneId"
  ), chosen AS (
    SELECT item.*, coalesce(state = 'QUEUED' AND kind = ANY ($5::text[]) AND place <= free AND lane_place <= lane_free, false) AS starts
    FROM item
  ), added AS (
    INSERT INTO tasks (user_id, id, kind, lane_id, agent_id, session_id, message_id, plan_id, session_order, input,
      request_id, traceparent, state, attempt, worker_id, started_at, deadline_at)
    SELECT $1, id, kind, "laneId", "agentId", "sessionId", "messageId", "planId", "sessionOrder", input, "requestId", traceparent,
      CASE WHEN starts THEN 'RUNNING' ELSE state END, starts::integer,
      CASE WHEN starts THEN $3::uuid END, CASE WHEN starts THEN clock_timestamp() END,
      CASE WHEN starts THEN clock_timestamp() + make_interval(secs => $6::float8 / 1000) END
    FROM chosen
    RETURNING id, attempt, kind, input, lane_id AS "laneId", agent_id AS "agentId", session_id AS "sessionId", plan_id AS "planId",
      message_id AS "messageId", answer_id AS "answerId", session_order AS "sessionOrder", request_id AS "requestId", traceparent,
      state
  ), occupied AS (
    UPDATE agents SET status = 'BUSY' FROM added
    WHERE added.state = 'RUNNING' AND agents.user_id = $1 AND agents.id = added."agentId" AND agents.status <> 'BUSY'
    RETURNING agents.id
  )
  SELECT added.*, EXISTS (SELECT FROM occupied WHERE occupied.id = added."agentId") AS "agentBecameBusy"
  FROM added WHERE state = 'RUNNING' ORDER BY id`);
const link = statement(`
  INSERT INTO task_dependencies (user_id, task_id, parent_id, needs_success)
  SELECT $1, link.task, link.parent, link.needs_success
  FROM unnest($2::uuid[], $3::uuid[], $4::boolean[]) AS link (task, parent, needs_success)`);

/**
 * Locks the lanes that a graph will use, together with all that the end of the task that made the graph needs: in the one
 * order that all use. Call it first in a transaction.
 */
export async function lockForGraph(
  operation: WriteOperation,
  laneIds: readonly string[],
  endingTaskId: string | null,
): Promise<void> {
  await operation.query(lock, [endingTaskId === null ? [] : [endingTaskId], laneIds]);
}

/**
 * Makes sure that every lane of the caller's has room for so many more waiting tasks. The lanes are locked, so that it
 * stays so until the commit.
 * @returns lanes that are gone
 * @throws DomainError AGENT_QUEUE_FULL
 */
export async function checkRoom(operation: WriteOperation, wanted: ReadonlyMap<string, number>): Promise<string[]> {
  const lanes = await operation.query(room, [operation.userId, [...wanted.keys()]]);
  const full = lanes.find((lane) => lane.free < (wanted.get(lane.id) ?? 0));
  if (full !== undefined) {
    throw new DomainError('AGENT_QUEUE_FULL', `An agent of the plan already has ${full.limit} waiting tasks.`, {
      retryAfter: 5,
    });
  }
  const found = new Set(lanes.map((lane) => lane.id));
  return [...wanted.keys()].filter((id) => !found.has(id));
}

/**
 * Adds the tasks of a graph, in lanes that the caller has locked, and wakes workers after the commit.
 * @param successor who goes on with as many of its tasks as it has slots for
 * @returns those that it goes on with, whose starts are for the caller to tell
 */
export async function enqueueGraph(
  operation: WriteOperation,
  tasks: readonly GraphTask[],
  successor?: Successor,
): Promise<BegunTask[]> {
  const own = new Set(tasks.map((task) => task.id));
  const rows = tasks.map(({ parents, ...task }) => ({
    ...task,
    state: parents.some((parent) => own.has(parent.id)) ? 'BLOCKED' : 'QUEUED',
  }));
  const links = tasks.flatMap((task) => task.parents.map((parent) => ({ taskId: task.id, ...parent })));
  let begun: BegunTask[] = [];
  await writeTogether(
    operation,
    async (write) => {
      const values = [write.userId, JSON.stringify(rows), ...successorValues(write, successor)];
      begun = await write.query(insert, values);
      letBegin(write, successor, begun, rows.filter((row) => row.state === 'QUEUED').length);
    },
    async (write) =>
      links.length > 0 &&
      write.query(link, [
        write.userId,
        links.map((each) => each.taskId),
        links.map((each) => each.id),
        links.map((each) => each.needsSuccess),
      ]),
  );
  return begun;
}

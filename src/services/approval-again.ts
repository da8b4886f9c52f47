import { statement } from '../adapters/postgres.ts';
import { DomainError, notFound } from '../errors.ts';
import type { ApprovalModel, TaskModel } from '../generated/prisma/models.ts';
import type { WriteOperation } from '../operation.ts';
import { reserveLane } from '../queue/lane.ts';
import { repeatTask } from '../queue/repeat.ts';
import type { ModelOutput } from './agent-run.ts';
import { approvalById, expireApproval, holdApproval, type NewApproval, requestApproval } from './approval.ts';
import type { Arguments } from './arguments.ts';
import { retryPlan } from './plan-retry.ts';
import { lockOpenSession } from './session.ts';
import { taskById } from './task.ts';
import { type CallOutput, positionOfCall } from './tool-call.ts';

const successorOf = statement<{ id: string }>(`SELECT id FROM approvals WHERE user_id = $1 AND previous_id = $2`);
const openOfPlan = statement<{ id: string }>(
  `SELECT id FROM approvals WHERE user_id = $1 AND plan_id = $2 AND state = 'PENDING' ORDER BY id DESC LIMIT 1`,
);
const answerWith = statement<{ position: number; output: ModelOutput }>(`
  SELECT position, output FROM task_steps
  WHERE user_id = $1 AND task_id = $2 AND kind = 'MODEL' AND position < $3 ORDER BY position DESC LIMIT 1`);
const copySteps = statement<{ position: number }>(`
  INSERT INTO task_steps (user_id, task_id, position, kind, attempt, output, started_at, finished_at)
  SELECT user_id, $3, position, kind, 0, output, started_at, finished_at FROM task_steps
  WHERE user_id = $1 AND task_id = $2 AND position <= $4 AND position <> $5 AND finished_at IS NOT NULL
  RETURNING position`);
const addStep = statement(`
  INSERT INTO task_steps (user_id, task_id, position, kind, attempt, output, started_at, finished_at)
  SELECT $1, $2, $3, 'TOOL', 0, $4, now.at, CASE WHEN $5 THEN now.at END
  FROM (SELECT clock_timestamp() AS at) AS now`);

/**
 * Asks again what expired. Where its task still waits for something else, that task is asked for again; where it has gone
 * on, a new run of it takes up at that very call and waits for the answer. One that is still pending is given as it is,
 * and one that was asked again gives its successor. A plan is tried anew, which leads to a new question.
 * @throws DomainError NOT_FOUND, APPROVAL_ALREADY_DECIDED, APPROVAL_CANCELLED, TASK_ENDED, SESSION_EXPIRED,
 * AGENT_QUEUE_FULL, PLAN_NOT_RETRYABLE
 */
export async function requestAgain(operation: WriteOperation, approvalId: string): Promise<{ approvalId: string }> {
  const known = await approvalById(operation, approvalId);
  if (known === null) {
    throw notFound('approval', 'id');
  }
  if (known.kind === 'PLAN' && known.state === 'EXPIRED' && known.planId !== null) {
    return planAgain(operation, known, known.planId);
  }
  const approval = await holdApproval(operation, approvalId, (sessionId) =>
    lockOpenSession(operation, sessionId, 'id'),
  );
  if (approval.state === 'PENDING' && !approval.isLate) {
    return { approvalId };
  }
  if (approval.state === 'PENDING') {
    await expireApproval(operation, approvalId);
  } else if (approval.state !== 'EXPIRED') {
    throw approval.state === 'CANCELLED'
      ? new DomainError('APPROVAL_CANCELLED', 'What asked for it was cancelled.', { field: 'id' })
      : new DomainError('APPROVAL_ALREADY_DECIDED', 'It was decided, so that there is nothing to ask again.', {
          field: 'id',
        });
  }
  const [successor] = await operation.query(successorOf, [operation.userId, approvalId]);
  if (successor !== undefined) {
    return requestAgain(operation, successor.id);
  }
  const task = approval.taskId === null ? null : await taskById(operation, approval.taskId);
  if (task === null) {
    throw gone();
  }
  const taskId = task.state === 'WAITING' ? task.id : await runAgain(operation, approval, task);
  return { approvalId: await requestApproval(operation, { ...repeat(approval), taskId }) };
}

/** The question that is open by now, or the plan once more: its orchestrator asks when it has looked at it again. */
async function planAgain(
  operation: WriteOperation,
  approval: ApprovalModel,
  planId: string,
): Promise<{ approvalId: string }> {
  const [open] = await operation.query(openOfPlan, [operation.userId, planId]);
  if (open === undefined) {
    await retryPlan(operation, planId);
  }
  return { approvalId: open?.id ?? approval.id };
}

/**
 * Adds a run that has done what the first one had done until the call, and not the call itself. Other calls of the same
 * answer stay with the first run: what they came to is told, and none of them is made twice.
 */
async function runAgain(operation: WriteOperation, approval: ApprovalModel, task: TaskModel): Promise<string> {
  const { userId } = operation;
  const at = positionOfCall(approval.callId ?? '');
  const [answer] = await operation.query(answerWith, [userId, task.id, at]);
  const calls = answer?.output.toolCalls ?? [];
  const isWhole = task.agentId !== null && task.laneId !== null && approval.toolId !== null;
  if (!isWhole || answer === undefined || !(await reserveLane(operation, task.laneId ?? '', 'id'))) {
    throw gone();
  }
  const taskId = await repeatTask(operation, task.id);
  const copied = await operation.query(copySteps, [userId, task.id, taskId, answer.position + calls.length, at]);
  const has = new Set(copied.map(({ position }) => position));
  for (const [place, call] of calls.entries()) {
    const position = answer.position + 1 + place;
    const output: CallOutput = {
      callId: call.id,
      toolName: call.name,
      arguments: null,
      approvalId: null,
      isAway: false,
      result: { outcome: 'REFUSED', content: 'Not called here: an earlier run of this task has called it.' },
    };
    if (position === at && approval.interrupted) {
      const begun = { ...output, arguments: approval.arguments as Arguments, result: null };
      await operation.query(addStep, [userId, taskId, position, JSON.stringify(begun), false]);
    } else if (position !== at && !has.has(position)) {
      await operation.query(addStep, [userId, taskId, position, JSON.stringify(output), true]);
    }
  }
  return taskId;
}

/** The same question, for as long as it stood open before. */
function repeat(approval: ApprovalModel): NewApproval {
  const common = {
    sessionId: approval.sessionId,
    taskId: approval.taskId ?? '',
    arguments: approval.arguments as Arguments,
    dangerous: approval.dangerous,
    expiresIn: approval.expiresAt.getTime() - approval.createdAt.getTime(),
    previousId: approval.id,
  };
  return approval.kind === 'PLAN'
    ? { ...common, kind: 'PLAN', planId: approval.planId ?? '' }
    : {
        ...common,
        kind: 'TOOL',
        toolId: approval.toolId ?? '',
        toolName: approval.toolName ?? '',
        callId: approval.callId ?? '',
        argumentsSchema: approval.argumentsSchema as Record<string, unknown>,
        interrupted: approval.interrupted,
      };
}

function gone(): DomainError {
  return new DomainError('TASK_ENDED', 'Its task, agent or tool is gone, so that nothing can be done with an answer.', {
    field: 'id',
  });
}

import { statement } from '../adapters/postgres.ts';
import { DomainError } from '../errors.ts';
import type { ApprovalModel } from '../generated/prisma/models.ts';
import type { WriteOperation } from '../operation.ts';
import { expireApproval, holdApproval, type NewApproval, requestApproval } from './approval.ts';
import type { Arguments } from './arguments.ts';
import { taskById } from './task.ts';

const successorOf = statement<{ id: string }>(`SELECT id FROM approvals WHERE user_id = $1 AND previous_id = $2`);

/**
 * Asks again what expired. One that is still pending is given as it is, and one that was asked again gives its successor.
 * @throws DomainError NOT_FOUND, APPROVAL_ALREADY_DECIDED, APPROVAL_CANCELLED, TASK_ENDED
 */
export async function requestAgain(operation: WriteOperation, approvalId: string): Promise<{ approvalId: string }> {
  const approval = await holdApproval(operation, approvalId);
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
  if (task?.state !== 'WAITING') {
    throw new DomainError('TASK_ENDED', 'Its task has gone on without it.', { field: 'id' });
  }
  return { approvalId: await requestApproval(operation, { ...repeat(approval), taskId: task.id }) };
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

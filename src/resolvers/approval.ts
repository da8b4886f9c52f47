import type { addApproval } from '../schema/approval.ts';
import { type Builder, decodeId } from '../schema/builder.ts';
import { approvalById, decideApproval, listApprovals } from '../services/approval.ts';
import { requestAgain } from '../services/approval-again.ts';
import { mutate } from './mutation.ts';

export function addApprovalFields(builder: Builder, types: ReturnType<typeof addApproval>): void {
  builder.queryField('approvals', (t) =>
    t.connection(
      {
        type: 'Approval',
        description: 'What you were asked to approve, newest first. `states: [PENDING]` gives what waits for you.',
        args: {
          states: t.arg({ type: [types.state], description: 'Only those in one of these states.' }),
          sessionId: t.arg.id({ description: 'Only those of this session.' }),
        },
        resolve: (_root, { states, sessionId, ...page }, context) =>
          listApprovals(context.operation.read, page, {
            states,
            sessionId: sessionId && decodeId(sessionId, 'Session', 'sessionId'),
          }),
      },
      types.connection,
    ),
  );
  builder.queryField('approval', (t) =>
    t.field({
      type: 'Approval',
      nullable: true,
      description: 'Something you were asked to approve; null when there is none of that id.',
      args: { id: t.arg.id({ required: true, description: 'Id of the approval.' }) },
      resolve: (_root, { id }, context) => approvalById(context.operation.read, decodeId(id, 'Approval', 'id')),
    }),
  );

  const changed = builder.objectRef<{ approvalId: string }>('ApprovalPayload').implement({
    description: 'An approval after a change.',
    fields: (t) => ({
      approval: t.field({
        type: 'Approval',
        nullable: true,
        description: 'The approval; null when it was deleted since.',
        resolve: ({ approvalId }, _arguments, context) => approvalById(context.operation.read, approvalId),
      }),
    }),
  });
  builder.mutationField('decideApproval', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description:
        'Decides what you were asked, once: of several decisions the first wins. Errors: NOT_FOUND, BAD_USER_INPUT, ' +
        'APPROVAL_ALREADY_DECIDED, APPROVAL_EXPIRED, APPROVAL_CANCELLED, APPROVAL_MISMATCH.',
      args: {
        id: t.arg.id({ required: true, description: 'Id of the approval.' }),
        decision: t.arg({ type: types.decision, required: true, description: 'How you decide.' }),
        note: t.arg.string({ description: 'What the agent is told beside it. At most 2,000 characters.' }),
        editedArguments: t.arg({
          type: 'JSON',
          description: "Calls the tool with these instead. They must fit the tool's schema as well.",
        }),
        remember: t.arg.boolean({
          description:
            'With APPROVED: approves this tool for this agent, with any arguments, or all plans, for the rest of the session.',
        }),
        argumentsHash: t.arg.string({
          description: 'The `argumentsHash` that you have read. With another one nothing is decided.',
        }),
      },
      resolve: (_root, { id, ...given }, context, info) =>
        mutate(context, info, { id, ...given }, (operation) =>
          decideApproval(operation, { id: decodeId(id, 'Approval', 'id'), ...given }, context.tools.arguments),
        ),
    }),
  );
  builder.mutationField('requestAgain', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description:
        'Asks again what expired. When its task has gone on without it, a new run of that task takes up at the call and ' +
        'waits for your answer. Gives the approval that is now open; one that is pending is given as it is. A plan is ' +
        'tried anew instead, and its `PlanRequest` follows. Errors: NOT_FOUND, APPROVAL_ALREADY_DECIDED, ' +
        'APPROVAL_CANCELLED, TASK_ENDED, SESSION_EXPIRED, AGENT_QUEUE_FULL, PLAN_NOT_RETRYABLE, RATE_LIMITED.',
      args: { id: t.arg.id({ required: true, description: 'Id of the approval that expired.' }) },
      resolve: (_root, { id }, context, info) =>
        mutate(context, info, { id }, (operation) => requestAgain(operation, decodeId(id, 'Approval', 'id'))),
    }),
  );
}

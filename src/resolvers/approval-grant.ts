import { type Builder, decodeId, encodeId } from '../schema/builder.ts';
import { withdrawApprovalGrant } from '../services/approval-grant.ts';
import { sessionById } from '../services/session.ts';
import { mutate } from './mutation.ts';

export function addApprovalGrantFields(builder: Builder): void {
  const withdrawn = builder
    .objectRef<{ withdrawnApprovalGrantId: string; sessionId: string }>('WithdrawApprovalGrantPayload')
    .implement({
      description: 'You are asked again.',
      fields: (t) => ({
        withdrawnApprovalGrantId: t.id({
          description: 'Id that it had.',
          resolve: ({ withdrawnApprovalGrantId: id }) => encodeId('ApprovalGrant', id),
        }),
        session: t.field({
          type: 'Session',
          nullable: true,
          description: 'The session in which it held; null when that was deleted since.',
          resolve: ({ sessionId }, _arguments, context) => sessionById(context.operation.read, sessionId),
        }),
      }),
    });
  builder.mutationField('withdrawApprovalGrant', (t) =>
    t.field({
      type: withdrawn,
      nullable: true,
      description:
        'Withdraws what you approved for the rest of a session. What runs already is not stopped. Errors: NOT_FOUND.',
      args: { id: t.arg.id({ required: true, description: 'Id of the grant.' }) },
      resolve: (_root, { id }, context, info) =>
        mutate(context, info, { id }, (operation) =>
          withdrawApprovalGrant(operation, decodeId(id, 'ApprovalGrant', 'id')),
        ),
    }),
  );
}

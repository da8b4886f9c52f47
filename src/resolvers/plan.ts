import { type Builder, decodeId } from '../schema/builder.ts';
import { cancelPlan, planById } from '../services/plan.ts';
import { retryPlan } from '../services/plan-retry.ts';
import { mutate } from './mutation.ts';

export function addPlanFields(builder: Builder): void {
  builder.queryField('plan', (t) =>
    t.field({
      type: 'Plan',
      nullable: true,
      description: 'One of your plans; null when you have none of that id.',
      args: { id: t.arg.id({ required: true, description: 'Id of the plan.' }) },
      resolve: (_root, { id }, context) => planById(context.operation.read, decodeId(id, 'Plan', 'id')),
    }),
  );

  const changed = builder.objectRef<{ planId: string }>('PlanPayload').implement({
    description: 'A plan after a change.',
    fields: (t) => ({
      plan: t.field({
        type: 'Plan',
        nullable: true,
        description: 'The plan; null when it was deleted since.',
        resolve: ({ planId }, _arguments, context) => planById(context.operation.read, planId),
      }),
    }),
  });
  builder.mutationField('cancelPlan', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description: 'Cancels all open tasks of a plan. Results that are there stay. Errors: NOT_FOUND, PLAN_ENDED.',
      args: { id: t.arg.id({ required: true, description: 'Id of the plan.' }) },
      resolve: (_root, { id }, context, info) =>
        mutate(context, info, { id }, (operation) => cancelPlan(operation, decodeId(id, 'Plan', 'id'))),
    }),
  );
  builder.mutationField('retryPlan', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description:
        'Runs again what failed, was cancelled or was skipped of a plan, and composes a new answer of all results. A plan ' +
        'that never ran is asked for or made again. Errors: NOT_FOUND, PLAN_NOT_RETRYABLE, SESSION_EXPIRED, AGENT_QUEUE_FULL, ' +
        'QUOTA_EXCEEDED, RATE_LIMITED.',
      args: { id: t.arg.id({ required: true, description: 'Id of the plan.' }) },
      resolve: (_root, { id }, context, info) =>
        mutate(context, info, { id }, (operation) => retryPlan(operation, decodeId(id, 'Plan', 'id'))),
    }),
  );
}

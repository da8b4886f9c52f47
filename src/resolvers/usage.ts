import type { Builder } from '../schema/builder.ts';
import type { addUsage } from '../schema/usage.ts';
import { listQuotas } from '../services/quota.ts';
import { listRateLimits, listUsageDays } from '../services/usage.ts';

export function addUsageFields(builder: Builder, types: ReturnType<typeof addUsage>): void {
  const usage = builder.objectRef<Record<string, never>>('Usage').implement({
    description: 'What you have used, and what is left.',
    fields: (t) => ({
      quotas: t.field({
        type: [types.quota],
        description: 'Your quotas. What would exceed one is refused with QUOTA_EXCEEDED.',
        resolve: (_usage, _arguments, context) => listQuotas(context.operation.read),
      }),
      rateLimits: t.field({
        type: [types.rate],
        description: 'Your limits by the minute. What would exceed one is refused with RATE_LIMITED.',
        resolve: (_usage, _arguments, context) => listRateLimits(context.operation.read, context.rates),
      }),
      days: t.field({
        type: [types.day],
        description: 'Model calls by day, kind and model: newest day first, then the costliest.',
        args: { days: t.arg.int({ defaultValue: 30, required: true, description: 'How many days back: 1 to 90.' }) },
        resolve: (_usage, { days }, context) => listUsageDays(context.operation.read, days),
      }),
    }),
  });
  builder.objectField('User', 'usage', (t) =>
    t.field({
      type: usage,
      description: 'What you have used, and what is left of your limits.',
      resolve: () => ({}),
    }),
  );
}

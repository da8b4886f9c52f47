import type { Builder } from '../schema/builder.ts';
import type { addOrchestrator } from '../schema/orchestrator.ts';
import { currentOrchestrator, updateOrchestrator } from '../services/orchestrator.ts';
import { mutate } from './mutation.ts';

export function addOrchestratorFields(builder: Builder, types: ReturnType<typeof addOrchestrator>): void {
  const changed = builder.objectRef<{ orchestratorId: string }>('OrchestratorPayload').implement({
    description: 'Your orchestrator after a change.',
    fields: (t) => ({
      orchestrator: t.field({
        type: 'Orchestrator',
        description: 'The orchestrator as it is after the change.',
        resolve: (_payload, _arguments, context) => currentOrchestrator(context.operation.read),
      }),
    }),
  });
  builder.mutationField('updateOrchestrator', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description: 'Changes your orchestrator. Errors: BAD_USER_INPUT.',
      args: { input: t.arg({ type: types.updateInput, required: true, description: 'What to change.' }) },
      resolve: (_root, { input }, context, info) =>
        mutate(context, info, { input }, (operation) => updateOrchestrator(operation, input)),
    }),
  );
}

import { currentOrchestrator, orchestratorById } from '../services/orchestrator.ts';
import type { addAgent } from './agent.ts';
import type { Builder } from './builder.ts';

/** The orchestrator with its input, and where it is found. */
export function addOrchestrator(
  builder: Builder,
  enums: { approvalPolicy: ReturnType<typeof addAgent>['approvalPolicy'] },
) {
  builder.node('Orchestrator', {
    description: 'Leads your team: makes plans for messages that name no agent, and composes the answers.',
    id: { resolve: (orchestrator) => orchestrator.id },
    loadOne: (id, context) => orchestratorById(context.operation.read, id),
    fields: (t) => ({
      name: t.exposeString('name', { description: 'What it calls itself in answers.' }),
      instructions: t.exposeString('instructions', { description: 'What the model is told before it plans.' }),
      model: t.exposeString('model', {
        nullable: true,
        description: 'Model name; null for the default of the service.',
      }),
      planApprovalPolicy: t.expose('planApprovalPolicy', {
        type: enums.approvalPolicy,
        description: 'When a plan needs your approval before it runs.',
      }),
      maxPlanTasks: t.exposeInt('maxPlanTasks', {
        description: 'Most tasks of a plan. Larger ones are replaced by a simple one.',
      }),
      maxUnapprovedTasks: t.exposeInt('maxUnapprovedTasks', {
        description:
          'With the policy DANGEROUS a plan is asked for when it has more tasks than this, or uses an agent with a dangerous tool.',
      }),
      createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was created.' }),
      updatedAt: t.expose('updatedAt', { type: 'DateTime', description: 'When its settings last changed.' }),
    }),
  });
  builder.objectField('User', 'orchestrator', (t) =>
    t.field({
      type: 'Orchestrator',
      description: 'Your orchestrator, which leads your team.',
      resolve: (_user, _arguments, context) => currentOrchestrator(context.operation.read),
    }),
  );
  const updateInput = builder.inputType('UpdateOrchestratorInput', {
    description: 'Changes of your orchestrator. Members left out stay as they are.',
    fields: (t) => ({
      name: t.string({ description: 'What it calls itself in answers: 1 to 80 characters.' }),
      instructions: t.string({ description: 'What the model is told before it plans: 1 to 20,000 characters.' }),
      model: t.string({ description: 'Model name; null for the default of the service.' }),
      planApprovalPolicy: t.field({
        type: enums.approvalPolicy,
        description: 'When a plan needs your approval before it runs.',
      }),
      maxPlanTasks: t.int({ description: 'Most tasks of a plan: 1 to 100. Larger ones are replaced by a simple one.' }),
      maxUnapprovedTasks: t.int({
        description: 'With the policy DANGEROUS a plan with more tasks than this is asked for: 0 to 100.',
      }),
    }),
  });
  return { updateInput };
}

import type { addAgent } from '../schema/agent.ts';
import { type Builder, decodeId } from '../schema/builder.ts';
import { agentById, createAgent, deleteAgent, listAgents, updateAgent } from '../services/agent.ts';
import { mutate } from './mutation.ts';

export function addAgentFields(builder: Builder, types: ReturnType<typeof addAgent>): void {
  builder.queryField('agents', (t) =>
    t.connection(
      {
        type: 'Agent',
        description: 'Your team, oldest first.',
        resolve: (_root, page, context) => listAgents(context.operation.read, page),
      },
      { name: 'AgentConnection' },
      { name: 'AgentEdge' },
    ),
  );
  builder.queryField('agent', (t) =>
    t.field({
      type: 'Agent',
      nullable: true,
      description: 'One of your agents; null when you have none of that id.',
      args: { id: t.arg.id({ required: true, description: 'Id of the agent.' }) },
      resolve: (_root, { id }, context) => agentById(context.operation.read, decodeId(id, 'Agent', 'id')),
    }),
  );

  const changed = builder.objectRef<{ agentId: string }>('AgentPayload').implement({
    description: 'An agent after a change.',
    fields: (t) => ({
      agent: t.field({
        type: 'Agent',
        nullable: true,
        description: 'The agent; null when it was deleted since.',
        resolve: ({ agentId }, _arguments, context) => agentById(context.operation.read, agentId),
      }),
    }),
  });
  const deleted = builder.objectRef<{ deletedAgentId: string }>('DeleteAgentPayload').implement({
    description: 'An agent is gone.',
    fields: (t) => ({ deletedAgentId: t.exposeID('deletedAgentId', { description: 'Id that it had.' }) }),
  });

  builder.mutationField('createAgent', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description: 'Adds an agent to your team. Errors: BAD_USER_INPUT, NOT_FOUND, NAME_TAKEN, QUOTA_EXCEEDED.',
      args: { input: t.arg({ type: types.createInput, required: true, description: 'The new agent.' }) },
      resolve: (_root, { input }, context, info) =>
        mutate(context, info, input, (operation) => createAgent(operation, withToolIds(input))),
    }),
  );
  builder.mutationField('updateAgent', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description: 'Changes an agent. Errors: NOT_FOUND, BAD_USER_INPUT, NAME_TAKEN.',
      args: {
        id: t.arg.id({ required: true, description: 'Id of the agent.' }),
        input: t.arg({ type: types.updateInput, required: true, description: 'What to change.' }),
      },
      resolve: (_root, { id, input }, context, info) =>
        mutate(context, info, { id, input }, (operation) =>
          updateAgent(operation, decodeId(id, 'Agent', 'id'), withToolIds(input)),
        ),
    }),
  );
  builder.mutationField('deleteAgent', (t) =>
    t.field({
      type: deleted,
      nullable: true,
      description: 'Deletes an agent and cancels its unfinished tasks. Its messages stay. Errors: NOT_FOUND.',
      args: { id: t.arg.id({ required: true, description: 'Id of the agent.' }) },
      resolve: (_root, { id }, context, info) =>
        mutate(context, info, { id }, async (operation) => {
          await deleteAgent(operation, decodeId(id, 'Agent', 'id'));
          return { deletedAgentId: id };
        }),
    }),
  );
}

function withToolIds<Input extends { toolIds?: readonly string[] | null | undefined }>(input: Input) {
  return { ...input, toolIds: input.toolIds?.map((id) => decodeId(id, 'Tool', 'input.toolIds')) };
}

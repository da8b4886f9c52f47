import { type Builder, decodeId } from '../schema/builder.ts';
import type { addTool } from '../schema/tool.ts';
import { agentById } from '../services/agent.ts';
import { attachTool, detachTool } from '../services/agent-tool.ts';
import { type BuiltInName, builtInTools } from '../services/built-in-tool.ts';
import { createTool, deleteTool, listTools, toolById, updateTool } from '../services/tool.ts';
import { mutate } from './mutation.ts';

export function addToolFields(builder: Builder, types: ReturnType<typeof addTool>): void {
  builder.queryField('tools', (t) =>
    t.connection(
      {
        type: 'Tool',
        description: 'Your tools, oldest first.',
        resolve: (_root, page, context) => listTools(context.operation.read, page),
      },
      types.connection,
    ),
  );
  builder.queryField('tool', (t) =>
    t.field({
      type: 'Tool',
      nullable: true,
      description: 'One of your tools; null when you have none of that id.',
      args: { id: t.arg.id({ required: true, description: 'Id of the tool.' }) },
      resolve: (_root, { id }, context) => toolById(context.operation.read, decodeId(id, 'Tool', 'id')),
    }),
  );
  builder.queryField('builtInTools', (t) =>
    t.field({
      type: [types.builtIn],
      description: 'What the service can do for agents by itself.',
      resolve: () => (Object.keys(builtInTools) as BuiltInName[]).map((name) => ({ name })),
    }),
  );

  const changed = builder.objectRef<{ toolId: string }>('ToolPayload').implement({
    description: 'A tool after a change.',
    fields: (t) => ({
      tool: t.field({
        type: 'Tool',
        nullable: true,
        description: 'The tool; null when it was deleted since.',
        resolve: ({ toolId }, _arguments, context) => toolById(context.operation.read, toolId),
      }),
    }),
  });
  const deleted = builder.objectRef<{ deletedToolId: string }>('DeleteToolPayload').implement({
    description: 'A tool is gone.',
    fields: (t) => ({ deletedToolId: t.exposeID('deletedToolId', { description: 'Id that it had.' }) }),
  });
  const moved = builder.objectRef<{ agentId: string; toolId: string }>('AgentToolPayload').implement({
    description: 'An agent and a tool after it was given or taken.',
    fields: (t) => ({
      agent: t.field({
        type: 'Agent',
        nullable: true,
        description: 'The agent; null when it was deleted since.',
        resolve: ({ agentId }, _arguments, context) => agentById(context.operation.read, agentId),
      }),
      tool: t.field({
        type: 'Tool',
        nullable: true,
        description: 'The tool; null when it was deleted since.',
        resolve: ({ toolId }, _arguments, context) => toolById(context.operation.read, toolId),
      }),
    }),
  });

  builder.mutationField('createTool', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description: 'Adds a tool. Errors: BAD_USER_INPUT, NAME_TAKEN, QUOTA_EXCEEDED, SECRETS_UNAVAILABLE.',
      args: { input: t.arg({ type: types.createInput, required: true, description: 'The new tool.' }) },
      resolve: (_root, { input }, context, info) =>
        mutate(context, info, withoutSecrets(input), (operation) => createTool(operation, input, context.tools)),
    }),
  );
  builder.mutationField('updateTool', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description: 'Changes a tool. Errors: NOT_FOUND, BAD_USER_INPUT, NAME_TAKEN, SECRETS_UNAVAILABLE.',
      args: {
        id: t.arg.id({ required: true, description: 'Id of the tool.' }),
        input: t.arg({ type: types.updateInput, required: true, description: 'What to change.' }),
      },
      resolve: (_root, { id, input }, context, info) =>
        mutate(context, info, { id, input: withoutSecrets(input) }, (operation) =>
          updateTool(operation, decodeId(id, 'Tool', 'id'), input, context.tools),
        ),
    }),
  );
  builder.mutationField('deleteTool', (t) =>
    t.field({
      type: deleted,
      nullable: true,
      description: 'Deletes a tool; agents go on without it. Errors: NOT_FOUND, BAD_USER_INPUT.',
      args: { id: t.arg.id({ required: true, description: 'Id of the tool.' }) },
      resolve: (_root, { id }, context, info) =>
        mutate(context, info, { id }, async (operation) => {
          await deleteTool(operation, decodeId(id, 'Tool', 'id'));
          return { deletedToolId: id };
        }),
    }),
  );
  for (const [name, description, change] of [
    ['attachTool', 'Gives an agent a tool. Errors: NOT_FOUND, QUOTA_EXCEEDED.', attachTool],
    ['detachTool', 'Takes a tool from an agent. Errors: NOT_FOUND.', detachTool],
  ] as const) {
    builder.mutationField(name, (t) =>
      t.field({
        type: moved,
        nullable: true,
        description,
        args: {
          agentId: t.arg.id({ required: true, description: 'The agent that may use it, or may no longer.' }),
          toolId: t.arg.id({ required: true, description: 'The tool that it is about.' }),
        },
        resolve: (_root, { agentId, toolId }, context, info) =>
          mutate(context, info, { agentId, toolId }, (operation) =>
            change(operation, decodeId(agentId, 'Agent', 'agentId'), decodeId(toolId, 'Tool', 'toolId')),
          ),
      }),
    );
  }
}

/**
 * What is kept of a request, as a hash, to know its repetition. Secrets are left out: one that is short could be guessed
 * from a hash.
 */
export function withoutSecrets<Input extends { secrets?: readonly { name: string }[] | null | undefined }>(
  input: Input,
) {
  return { ...input, secrets: input.secrets?.map(({ name }) => name) };
}

import { type Builder, decodeId } from '../schema/builder.ts';
import type { addMcpServer } from '../schema/mcp-server.ts';
import { refreshMcpServer } from '../services/mcp-listing.ts';
import {
  createMcpServer,
  deleteMcpServer,
  listMcpServers,
  mcpServerById,
  updateMcpServer,
} from '../services/mcp-server.ts';
import { mutate } from './mutation.ts';

export function addMcpServerFields(builder: Builder, types: ReturnType<typeof addMcpServer>): void {
  builder.queryField('mcpServers', (t) =>
    t.connection(
      {
        type: 'McpServer',
        description: 'Your MCP servers, oldest first.',
        resolve: (_root, page, context) => listMcpServers(context.operation.read, page),
      },
      { name: 'McpServerConnection' },
      { name: 'McpServerEdge' },
    ),
  );
  builder.queryField('mcpServer', (t) =>
    t.field({
      type: 'McpServer',
      nullable: true,
      description: 'One of your MCP servers; null when you have none of that id.',
      args: { id: t.arg.id({ required: true, description: 'Id of the server.' }) },
      resolve: (_root, { id }, context) => mcpServerById(context.operation.read, decodeId(id, 'McpServer', 'id')),
    }),
  );

  const changed = builder.objectRef<{ mcpServerId: string }>('McpServerPayload').implement({
    description: 'An MCP server after a change.',
    fields: (t) => ({
      mcpServer: t.field({
        type: 'McpServer',
        nullable: true,
        description: 'The server; null when it was deleted since.',
        resolve: ({ mcpServerId }, _arguments, context) => mcpServerById(context.operation.read, mcpServerId),
      }),
    }),
  });
  const deleted = builder.objectRef<{ deletedMcpServerId: string }>('DeleteMcpServerPayload').implement({
    description: 'An MCP server is gone, with its tools.',
    fields: (t) => ({ deletedMcpServerId: t.exposeID('deletedMcpServerId', { description: 'Id that it had.' }) }),
  });

  builder.mutationField('createMcpServer', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description:
        'Adds an MCP server; `refreshMcpServer` then asks it for its tools. Errors: BAD_USER_INPUT, NAME_TAKEN, QUOTA_EXCEEDED, SECRETS_UNAVAILABLE.',
      args: { input: t.arg({ type: types.createInput, required: true, description: 'The new server.' }) },
      resolve: (_root, { input }, context, info) =>
        mutate(context, info, withoutHeaders(input), (operation) => createMcpServer(operation, input, context.tools)),
    }),
  );
  builder.mutationField('updateMcpServer', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description: 'Changes an MCP server. Errors: NOT_FOUND, BAD_USER_INPUT, SECRETS_UNAVAILABLE.',
      args: {
        id: t.arg.id({ required: true, description: 'Id of the server.' }),
        input: t.arg({ type: types.updateInput, required: true, description: 'What to change.' }),
      },
      resolve: (_root, { id, input }, context, info) =>
        mutate(context, info, { id, input: withoutHeaders(input) }, (operation) =>
          updateMcpServer(operation, decodeId(id, 'McpServer', 'id'), input, context.tools),
        ),
    }),
  );
  builder.mutationField('deleteMcpServer', (t) =>
    t.field({
      type: deleted,
      nullable: true,
      description: 'Deletes an MCP server with the tools that it lent. Errors: NOT_FOUND.',
      args: { id: t.arg.id({ required: true, description: 'Id of the server.' }) },
      resolve: (_root, { id }, context, info) =>
        mutate(context, info, { id }, async (operation) => {
          await deleteMcpServer(operation, decodeId(id, 'McpServer', 'id'));
          return { deletedMcpServerId: id };
        }),
    }),
  );
  builder.mutationField('refreshMcpServer', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description:
        'Asks an MCP server for its tools, which takes up to 15 seconds. When it does not answer, `listError` says why and the tools of before stay. Errors: NOT_FOUND, QUOTA_EXCEEDED, RATE_LIMITED.',
      args: { id: t.arg.id({ required: true, description: 'Id of the server.' }) },
      resolve: async (_root, { id }, context, info) => {
        // Before anything leaves the service, not only before something is stored.
        await context.takeCostly('COSTLY');
        return await refreshMcpServer(
          context.operation.read,
          decodeId(id, 'McpServer', 'id'),
          context.tools,
          context.signal,
          (work) => mutate(context, info, { id }, work),
        );
      },
    }),
  );
}

/** Headers are secrets, and left out of what is kept to know a repeated request. */
function withoutHeaders<Input extends { headers?: readonly { name: string }[] | null | undefined }>(input: Input) {
  return { ...input, headers: input.headers?.map(({ name }) => name) };
}

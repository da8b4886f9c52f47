import { mcpServerById } from '../services/mcp-server.ts';
import { listServerTools } from '../services/tool.ts';
import type { Builder } from './builder.ts';
import type { addTool } from './tool.ts';

/** The MCP server with its inputs. */
export function addMcpServer(builder: Builder, tool: ReturnType<typeof addTool>) {
  builder.node('McpServer', {
    description: 'A server of the Model Context Protocol that lends its tools.',
    id: { resolve: (server) => server.id },
    loadOne: (id, context) => mcpServerById(context.operation.read, id),
    fields: (t) => ({
      name: t.exposeString('name', { description: 'Begins the names of its tools. Unique among your servers.' }),
      url: t.exposeString('url', { description: 'Where it answers, by streamable HTTP.' }),
      headerNames: t.exposeStringList('secretNames', {
        description: 'Names of the headers that it is sent. What they say can be replaced and never read.',
      }),
      listedAt: t.expose('listedAt', {
        type: 'DateTime',
        nullable: true,
        description: 'When it was last asked for its tools; null before the first time.',
      }),
      listError: t.exposeString('listError', {
        nullable: true,
        description:
          'What went wrong when it was last asked for its tools, or which were left out; null when all is well.',
      }),
      tools: t.connection(
        {
          type: 'Tool',
          description: 'Tools that it lent, oldest first; also those that it does not list any more.',
          resolve: (server, page, context) => listServerTools(context.operation.read, server.id, page),
        },
        tool.connection,
      ),
      createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was added.' }),
      updatedAt: t.expose('updatedAt', { type: 'DateTime', description: 'When its settings last changed.' }),
    }),
  });
  builder.objectField('Tool', 'mcpServer', (t) =>
    t.field({
      type: 'McpServer',
      nullable: true,
      description: 'The server that lends it; null for other kinds.',
      resolve: (row, _arguments, context) =>
        row.mcpServerId === null ? null : mcpServerById(context.operation.read, row.mcpServerId),
    }),
  );
  const createInput = builder.inputType('CreateMcpServerInput', {
    description: 'A new MCP server.',
    fields: (t) => ({
      name: t.string({
        required: true,
        description: '1 to 24 letters and digits, with single _ and - in between. It stays.',
      }),
      url: t.string({ required: true, description: 'Where it answers, beginning with https://.' }),
      headers: t.field({
        type: [tool.secretInput],
        description: 'Headers of every request, such as `Authorization`; they are kept as secrets.',
      }),
    }),
  });
  const updateInput = builder.inputType('UpdateMcpServerInput', {
    description: 'Changes of an MCP server. Members left out stay as they are.',
    fields: (t) => ({
      url: t.string({ description: 'At another origin, its headers must be given anew too.' }),
      headers: t.field({
        type: [tool.secretInput],
        description: 'Headers to add, replace or, with null, forget. Those not named stay.',
      }),
    }),
  });
  return { createInput, updateInput };
}

import { ToolKind } from '../generated/prisma/enums.ts';
import { type BuiltInName, builtInTools } from '../services/built-in-tool.ts';
import { builtInName, httpSettings, listAgentTools, toolById } from '../services/tool.ts';
import type { addAgent } from './agent.ts';
import type { Builder } from './builder.ts';
import { addHttpMethod, addToolInputs } from './tool-input.ts';

/** The tool with its settings, enums and inputs. */
export function addTool(
  builder: Builder,
  { approvalPolicy }: { approvalPolicy: ReturnType<typeof addAgent>['approvalPolicy'] },
) {
  const kind = builder.enumType('ToolKind', {
    description: 'Where a tool comes from, and so who carries out its calls.',
    values: {
      BUILT_IN: { description: 'The service does it itself.', value: ToolKind.BUILT_IN },
      HTTP: { description: 'A request to an address of yours.', value: ToolKind.HTTP },
      MCP: { description: 'A tool that an MCP server of yours lends.', value: ToolKind.MCP },
    } as const,
  });
  const method = addHttpMethod(builder);
  const header = builder.objectRef<{ name: string; value: string }>('HttpHeader').implement({
    description: 'A header of a request.',
    fields: (t) => ({
      name: t.exposeString('name', { description: 'Its name, such as `Authorization`.' }),
      value: t.exposeString('value', { description: 'Its template: secrets stand in it by name, never in clear.' }),
    }),
  });
  const http = builder.objectRef<NonNullable<ReturnType<typeof httpSettings>>>('HttpToolSettings').implement({
    description:
      'How an HTTP tool makes its request. `{{name}}` stands for an argument, `{{secrets.NAME}}` for a secret.',
    fields: (t) => ({
      method: t.expose('method', { type: method, description: 'Method of the request.' }),
      url: t.exposeString('url', { description: 'Template of the URL.' }),
      headers: t.expose('headers', { type: [header], description: 'Headers that are sent.' }),
      body: t.expose('body', {
        type: 'JSON',
        nullable: true,
        description: 'Template of the JSON content; null sends all arguments.',
      }),
      resultPointer: t.exposeString('resultPointer', {
        description: 'JSON Pointer to the part of the answer that is the result; empty for all of it.',
      }),
      idempotencyHeader: t.exposeString('idempotencyHeader', {
        nullable: true,
        description: 'Header that is the same for each try of one call; null sends none.',
      }),
    }),
  });
  builder.node('Tool', {
    description: 'Something that agents can do beside writing.',
    id: { resolve: (tool) => tool.id },
    loadOne: (id, context) => toolById(context.operation.read, id),
    fields: (t) => ({
      name: t.exposeString('name', {
        description: 'What models call it by. Unique among your tools, whatever its case.',
      }),
      description: t.exposeString('description', { description: 'What it is for; models choose by it.' }),
      kind: t.expose('kind', {
        type: kind,
        description: 'Whether the service, an address of yours or an MCP server does it.',
      }),
      arguments: t.field({
        type: 'JSON',
        description: 'JSON Schema of its arguments.',
        resolve: (tool) => tool.argumentsSchema,
      }),
      dangerous: t.exposeBoolean('dangerous', {
        description: "Whether its effect can't be taken back or reaches others: approval policies look at it.",
      }),
      approvalPolicy: t.expose('approvalPolicy', {
        type: approvalPolicy,
        nullable: true,
        description: 'When calls need your approval; null leaves it to the agent.',
      }),
      approvalTimeoutSeconds: t.exposeInt('approvalTimeoutSeconds', {
        nullable: true,
        description: 'How long an approval waits for you, in seconds; null leaves it to the agent.',
      }),
      timeoutSeconds: t.exposeInt('timeoutSeconds', { description: 'How long a call may take, in seconds.' }),
      builtIn: t.string({
        nullable: true,
        description: 'Which built-in tool it is; null for other kinds.',
        resolve: (tool) => builtInName(tool),
      }),
      http: t.field({
        type: http,
        nullable: true,
        description: 'How it makes its request; null for other kinds.',
        resolve: (tool) => httpSettings(tool),
      }),
      available: t.boolean({
        description: 'False when its server does not list it any more. Agents are not offered it then.',
        resolve: (tool) => tool.missingSince === null,
      }),
      secretNames: t.exposeStringList('secretNames', {
        description: 'Names of the secrets that it holds. Their values can be replaced and never read.',
      }),
      createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was created.' }),
      updatedAt: t.expose('updatedAt', { type: 'DateTime', description: 'When it last changed.' }),
    }),
  });
  const connection = builder.connectionObject({ type: 'Tool', name: 'ToolConnection' }, { name: 'ToolEdge' });
  builder.objectField('Agent', 'tools', (t) =>
    t.connection(
      {
        type: 'Tool',
        description: 'Tools that it may use, oldest first.',
        resolve: (agent, page, context) => listAgentTools(context.operation.read, agent.id, page),
      },
      connection,
    ),
  );
  const builtIn = builder.objectRef<{ name: BuiltInName }>('BuiltInTool').implement({
    description: 'Something that the service can do for an agent by itself.',
    fields: (t) => ({
      name: t.exposeString('name', { description: 'What `createTool` takes as `builtIn`.' }),
      description: t.string({
        description: 'What models are told of it.',
        resolve: ({ name }) => builtInTools[name].description,
      }),
      arguments: t.field({
        type: 'JSON',
        description: 'JSON Schema of its arguments.',
        resolve: ({ name }) => builtInTools[name].argumentsSchema,
      }),
      dangerous: t.boolean({
        description: "Whether its effect can't be taken back or reaches others.",
        resolve: ({ name }) => builtInTools[name].dangerous,
      }),
    }),
  });
  return { connection, builtIn, ...addToolInputs(builder, { method, approvalPolicy }) };
}

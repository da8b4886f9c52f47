import type { addAgent } from './agent.ts';
import type { Builder } from './builder.ts';

/** Methods of HTTP tools. */
export function addHttpMethod(builder: Builder) {
  return builder.enumType('HttpMethod', {
    description: 'HTTP method of the request of a tool.',
    values: {
      GET: { description: 'Reads. Arguments go into the URL.', value: 'GET' },
      POST: { description: 'Sends content, for the address to do with as it does.', value: 'POST' },
      PUT: { description: 'Puts content in place of what was there.', value: 'PUT' },
      PATCH: { description: 'Changes a part of what is there.', value: 'PATCH' },
      DELETE: { description: 'Removes what is there.', value: 'DELETE' },
    } as const,
  });
}

/** The inputs of tools. */
export function addToolInputs(
  builder: Builder,
  types: {
    method: ReturnType<typeof addHttpMethod>;
    approvalPolicy: ReturnType<typeof addAgent>['approvalPolicy'];
  },
) {
  const secretInput = builder.inputType('SecretInput', {
    description: 'Something to be kept secret: it is encrypted, used for calls, and never shown again.',
    fields: (t) => ({
      name: t.string({ required: true, description: 'What it is called where it is used.' }),
      value: t.string({ description: '4 to 4,000 visible ASCII characters; null forgets it.' }),
    }),
  });
  const headerInput = builder.inputType('HttpHeaderInput', {
    description: 'A header of the request of an HTTP tool.',
    fields: (t) => ({
      name: t.string({ required: true, description: 'Its name. Headers of the connection may not be set.' }),
      value: t.string({ required: true, description: 'Its template, such as `Bearer {{secrets.TOKEN}}`.' }),
    }),
  });
  const httpInput = builder.inputType('HttpToolInput', {
    description:
      'How an HTTP tool makes its request. `{{name}}` stands for an argument, `{{secrets.NAME}}` for a secret.',
    fields: (t) => ({
      method: t.field({ type: types.method, description: 'HTTP method of the request; default GET.' }),
      url: t.string({
        required: true,
        description:
          'Template of the URL. Its origin is fixed: places may stand in the path and in values of the query.',
      }),
      headers: t.field({ type: [headerInput], description: 'Headers that are sent; at most 30.' }),
      body: t.field({
        type: 'JSON',
        description:
          'Template of the JSON content: an object or list. Leave it out to send all arguments. GET sends none.',
      }),
      resultPointer: t.string({
        description:
          'JSON Pointer to the part of a JSON answer that is the result, such as `/data/items`; default: all of it.',
      }),
      idempotencyHeader: t.string({
        description: 'Header that is the same for each try of one call; default `Idempotency-Key`, null sends none.',
      }),
    }),
  });
  const createInput = builder.inputType('CreateToolInput', {
    description: 'A new tool: give either `builtIn` or `http`.',
    fields: (t) => ({
      name: t.string({
        description:
          '1 to 64 letters, digits, _ and -, without `__`, unique among your tools. Default for a built-in tool: its own.',
      }),
      description: t.string({
        description:
          'What it is for; models choose by it. At most 1,000 characters. Default for a built-in tool: its own.',
      }),
      arguments: t.field({
        type: 'JSON',
        description: 'JSON Schema (2020-12 or draft-07) of the arguments of an HTTP tool; default: it takes none.',
      }),
      dangerous: t.boolean({
        description:
          "Whether its effect can't be taken back or reaches others. Default true for HTTP tools; a built-in tool says it itself.",
      }),
      approvalPolicy: t.field({
        type: types.approvalPolicy,
        description: 'When calls need your approval. Null leaves it to the agent.',
      }),
      approvalTimeoutSeconds: t.int({
        description: 'How long an approval waits for you, in seconds: 10 to 2,592,000. Null leaves it to the agent.',
      }),
      timeoutSeconds: t.int({
        description:
          'How long a call may take, in seconds: 1 to 600; at most 30 for HTTP tools, which is their default.',
      }),
      builtIn: t.string({ description: 'Name of a built-in tool, from `builtInTools`.' }),
      http: t.field({ type: httpInput, description: 'The request of an HTTP tool; leave it out for a built-in one.' }),
      secrets: t.field({
        type: [secretInput],
        description: 'Secrets of an HTTP tool, at most 20. Names of letters, digits and _.',
      }),
    }),
  });
  const updateInput = builder.inputType('UpdateToolInput', {
    description: 'Changes of a tool. Members left out stay as they are.',
    fields: (t) => ({
      name: t.string({ description: '1 to 64 letters, digits, _ and -, without `__`, unique among your tools.' }),
      description: t.string({ description: 'What it is for; models choose by it. At most 1,000 characters.' }),
      arguments: t.field({ type: 'JSON', description: 'JSON Schema (2020-12 or draft-07) of the arguments.' }),
      dangerous: t.boolean({ description: "Whether its effect can't be taken back or reaches others." }),
      approvalPolicy: t.field({
        type: types.approvalPolicy,
        description: 'When calls need your approval. Null leaves it to the agent.',
      }),
      approvalTimeoutSeconds: t.int({
        description: 'How long an approval waits for you, in seconds: 10 to 2,592,000. Null leaves it to the agent.',
      }),
      timeoutSeconds: t.int({
        description: 'How long a call may take, in seconds: 1 to 600; at most 30 for HTTP tools.',
      }),
      http: t.field({
        type: httpInput,
        description:
          'All settings of the request anew. When it leads to another origin, the secrets must be given anew too.',
      }),
      secrets: t.field({
        type: [secretInput],
        description: 'Secrets to add, replace or, with null, forget. Those not named stay.',
      }),
    }),
  });
  return { secretInput, createInput, updateInput };
}

import { AgentStatus, ApprovalPolicy } from '../generated/prisma/enums.ts';
import { agentById } from '../services/agent.ts';
import type { Builder } from './builder.ts';

/** The agent with its enums and inputs. */
export function addAgent(builder: Builder) {
  const status = builder.enumType('AgentStatus', {
    description: 'What an agent is doing.',
    values: {
      READY: { description: 'Nothing is running and the last task went well.', value: AgentStatus.READY },
      BUSY: { description: 'At least one task is running.', value: AgentStatus.BUSY },
      ERROR: { description: 'Nothing is running and the last task failed; see `lastError`.', value: AgentStatus.ERROR },
    } as const,
  });
  const approvalPolicy = builder.enumType('ApprovalPolicy', {
    description: 'When you are asked before something is done.',
    values: {
      ALWAYS: { description: 'Ask every time.', value: ApprovalPolicy.ALWAYS },
      DANGEROUS: { description: 'Ask when it is marked as dangerous.', value: ApprovalPolicy.DANGEROUS },
      NEVER: { description: 'Never ask.', value: ApprovalPolicy.NEVER },
    } as const,
  });
  const memory = builder.objectType('AgentMemorySettings', {
    description: 'How an agent keeps and uses its memory.',
    fields: (t) => ({
      retrieval: t.exposeBoolean('memoryRetrieval', {
        description: 'Whether the memory is searched before an answer.',
      }),
      rememberConversations: t.exposeBoolean('memoryConversations', {
        description: 'Whether past conversations become memory.',
      }),
      maxAgeDays: t.exposeInt('memoryMaxAgeDays', {
        nullable: true,
        description: 'Documents that have not changed for so many days are pruned; null keeps them.',
      }),
      maxBytes: t.float({
        nullable: true,
        description: 'Most bytes of text to keep; null leaves it to your quota.',
        resolve: (agent) => (agent.memoryMaxBytes === null ? null : Number(agent.memoryMaxBytes)),
      }),
    }),
  });
  builder.node('Agent', {
    description: 'A member of your team: a persona with instructions, which answers messages.',
    id: { resolve: (agent) => agent.id },
    loadOne: (id, context) => agentById(context.operation.read, id),
    fields: (t) => ({
      name: t.exposeString('name', { description: 'Unique in your team, whatever its case.' }),
      description: t.exposeString('description', {
        description: 'What it is good at; the orchestrator chooses by it.',
      }),
      instructions: t.exposeString('instructions', {
        description: 'What the model is told before every conversation.',
      }),
      model: t.exposeString('model', {
        nullable: true,
        description: 'Model name; null for the default of the service.',
      }),
      temperature: t.exposeFloat('temperature', {
        nullable: true,
        description: 'Sampling temperature from 0 to 2; null for the default of the model.',
      }),
      status: t.expose('status', { type: status, description: 'What it is doing now.' }),
      lastError: t.exposeString('lastError', {
        nullable: true,
        description: 'Message of the last task that failed; null while none has. A task that goes well leaves it.',
      }),
      approvalPolicy: t.expose('approvalPolicy', {
        type: approvalPolicy,
        description: 'When its calls of tools need your approval.',
      }),
      approvalTimeoutSeconds: t.exposeInt('approvalTimeoutSeconds', {
        nullable: true,
        description:
          'How long you have to approve its calls of tools, in seconds; null for the default of the service. A tool may say otherwise.',
      }),
      maxConcurrentTasks: t.exposeInt('maxConcurrentTasks', { description: 'Most of its tasks that run at once.' }),
      memory: t.field({
        type: memory,
        description: 'How it keeps and uses its memory.',
        resolve: (agent) => agent,
      }),
      createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was created.' }),
      updatedAt: t.expose('updatedAt', { type: 'DateTime', description: 'When its settings last changed.' }),
    }),
  });

  const memoryInput = builder.inputType('AgentMemorySettingsInput', {
    description: 'Memory settings; members left out keep their value or get the default.',
    fields: (t) => ({
      retrieval: t.boolean({ description: 'Search the memory before an answer. Default true.' }),
      rememberConversations: t.boolean({ description: 'Keep past conversations as memory. Default false.' }),
      maxAgeDays: t.int({
        description: 'Prune documents that have not changed for so many days: 1 to 36,500. Null keeps them.',
      }),
      maxBytes: t.float({ description: 'Most bytes of text to keep, a whole number. Null leaves it to your quota.' }),
    }),
  });
  const createInput = builder.inputType('CreateAgentInput', {
    description: 'An agent to add to your team.',
    fields: (t) => ({
      name: t.string({
        required: true,
        description: "1 to 80 characters: letters, digits, spaces and . _ ' -. Unique in your team.",
      }),
      description: t.string({
        description: 'What it is good at; the orchestrator chooses by it. At most 1,000 characters; default none.',
      }),
      instructions: t.string({
        required: true,
        description: 'What the model is told before every conversation: 1 to 20,000 characters.',
      }),
      model: t.string({ description: 'Model name. Leave it out for the default of the service.' }),
      temperature: t.float({
        description: 'Sampling temperature from 0 to 2. Leave it out for the default of the model.',
      }),
      approvalPolicy: t.field({
        type: approvalPolicy,
        description: 'When its calls of tools need your approval. Default DANGEROUS.',
      }),
      approvalTimeoutSeconds: t.int({
        description:
          'How long you have to approve its calls of tools, in seconds: 10 to 2,592,000 (30 days). Null for the default.',
      }),
      maxConcurrentTasks: t.int({ description: 'Most of its tasks that run at once: 1 to 10; default 3.' }),
      memory: t.field({ type: memoryInput, description: 'How it keeps and uses its memory.' }),
      toolIds: t.idList({ description: 'Tools that it may use, at most 64; default none.' }),
    }),
  });
  const updateInput = builder.inputType('UpdateAgentInput', {
    description: 'Changes of an agent. Members left out stay as they are.',
    fields: (t) => ({
      name: t.string({ description: "1 to 80 characters: letters, digits, spaces and . _ ' -. Unique in your team." }),
      description: t.string({
        description: 'What it is good at; the orchestrator chooses by it. At most 1,000 characters; default none.',
      }),
      instructions: t.string({
        description: 'What the model is told before every conversation: 1 to 20,000 characters.',
      }),
      model: t.string({ description: 'Model name; null for the default of the service.' }),
      temperature: t.float({ description: 'Sampling temperature from 0 to 2; null for the default of the model.' }),
      approvalPolicy: t.field({ type: approvalPolicy, description: 'When its calls of tools need your approval.' }),
      approvalTimeoutSeconds: t.int({
        description:
          'How long you have to approve its calls of tools, in seconds: 10 to 2,592,000 (30 days). Null for the default.',
      }),
      maxConcurrentTasks: t.int({
        description: 'Most of its tasks that run at once: 1 to 10. Running ones are let finish.',
      }),
      memory: t.field({ type: memoryInput, description: 'How it keeps and uses its memory.' }),
      toolIds: t.idList({ description: 'All tools that it may use from now on, at most 64.' }),
    }),
  });
  return { status, approvalPolicy, createInput, updateInput };
}

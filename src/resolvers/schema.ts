import type { GraphQLSchema } from 'graphql';
import { addAgent } from '../schema/agent.ts';
import { addApproval } from '../schema/approval.ts';
import { addApprovalGrant } from '../schema/approval-grant.ts';
import { createBuilder } from '../schema/builder.ts';
import { addEvent } from '../schema/event.ts';
import { addMcpServer } from '../schema/mcp-server.ts';
import { addMemory } from '../schema/memory.ts';
import { addMessage } from '../schema/message.ts';
import { addOrchestrator } from '../schema/orchestrator.ts';
import { addPlan } from '../schema/plan.ts';
import { addSession } from '../schema/session.ts';
import { addTask } from '../schema/task.ts';
import { addTool } from '../schema/tool.ts';
import { addUsage } from '../schema/usage.ts';
import { addUser } from '../schema/user.ts';
import { addAgentFields } from './agent.ts';
import { addApprovalFields } from './approval.ts';
import { addApprovalGrantFields } from './approval-grant.ts';
import { addEventFields } from './event.ts';
import { addMcpServerFields } from './mcp-server.ts';
import { addMemoryFields } from './memory.ts';
import { addMessageFields } from './message.ts';
import { addOrchestratorFields } from './orchestrator.ts';
import { addPlanFields } from './plan.ts';
import { addSessionFields } from './session.ts';
import { addTaskFields } from './task.ts';
import { addToolFields } from './tool.ts';
import { addUsageFields } from './usage.ts';
import { addUserFields } from './user.ts';

/** The whole API: each noun's types, then what can be done with them. */
export function createSchema(): GraphQLSchema {
  const builder = createBuilder();
  addUser(builder);
  const agent = addAgent(builder);
  const tool = addTool(builder, agent);
  const mcpServer = addMcpServer(builder, tool);
  const message = addMessage(builder);
  const task = addTask(builder);
  const session = addSession(builder, {
    messages: message.connection,
    busyPolicy: message.busyPolicy,
    tasks: task.connection,
  });
  const approval = addApproval(builder);
  addApprovalGrant(builder, { approvalKind: approval.kind });
  const orchestrator = addOrchestrator(builder, { approvalPolicy: agent.approvalPolicy });
  const plan = addPlan(builder);
  const event = addEvent(builder, {
    agentStatus: agent.status,
    approvalState: approval.state,
    planState: plan.state,
    fallbackReason: plan.fallbackReason,
  });
  const memory = addMemory(builder);

  const usage = addUsage(builder);

  addUserFields(builder);
  addUsageFields(builder, usage);
  addAgentFields(builder, agent);
  addToolFields(builder, tool);
  addMcpServerFields(builder, mcpServer);
  addSessionFields(builder, session);
  addMessageFields(builder, message);
  addTaskFields(builder, task);
  addApprovalFields(builder, approval);
  addApprovalGrantFields(builder);
  addOrchestratorFields(builder, orchestrator);
  addPlanFields(builder);
  addEventFields(builder, event);
  addMemoryFields(builder, memory);
  return builder.toSchema();
}

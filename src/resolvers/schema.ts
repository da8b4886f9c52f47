import type { GraphQLSchema } from 'graphql';
import { addAgent } from '../schema/agent.ts';
import { addApproval } from '../schema/approval.ts';
import { addApprovalGrant } from '../schema/approval-grant.ts';
import { createBuilder } from '../schema/builder.ts';
import { addEvent } from '../schema/event.ts';
import { addMessage } from '../schema/message.ts';
import { addSession } from '../schema/session.ts';
import { addTask } from '../schema/task.ts';
import { addUser } from '../schema/user.ts';
import { addAgentFields } from './agent.ts';
import { addApprovalFields } from './approval.ts';
import { addApprovalGrantFields } from './approval-grant.ts';
import { addEventFields } from './event.ts';
import { addMessageFields } from './message.ts';
import { addSessionFields } from './session.ts';
import { addTaskFields } from './task.ts';
import { addUserFields } from './user.ts';

/** The whole API: each noun's types, then what can be done with them. */
export function createSchema(): GraphQLSchema {
  const builder = createBuilder();
  addUser(builder);
  const agent = addAgent(builder);
  const message = addMessage(builder);
  const task = addTask(builder);
  const session = addSession(builder, { messages: message.connection, tasks: task.connection });
  const approval = addApproval(builder);
  addApprovalGrant(builder, { approvalKind: approval.kind });
  const event = addEvent(builder, { agentStatus: agent.status, approvalState: approval.state });

  addUserFields(builder);
  addAgentFields(builder, agent);
  addSessionFields(builder, session);
  addMessageFields(builder, message);
  addTaskFields(builder, task);
  addApprovalFields(builder, approval);
  addApprovalGrantFields(builder);
  addEventFields(builder, event);
  return builder.toSchema();
}

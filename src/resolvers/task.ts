import { type Builder, decodeId } from '../schema/builder.ts';
import type { addTask } from '../schema/task.ts';
import { cancelTask, cancelTasksOfAgent, cancelTasksOfSession, listTasks, taskById } from '../services/task.ts';
import { mutate } from './mutation.ts';

export function addTaskFields(builder: Builder, types: ReturnType<typeof addTask>): void {
  const filter = builder.inputType('TaskFilter', {
    description: 'Conditions on tasks; all that are given must hold.',
    fields: (t) => ({
      sessionId: t.id({ description: 'Tasks of this session.' }),
      agentId: t.id({ description: 'Tasks of this agent.' }),
      states: t.field({ type: [types.state], description: 'Tasks in one of these states.' }),
    }),
  });
  builder.queryField('tasks', (t) =>
    t.connection(
      {
        type: 'Task',
        description: 'Your tasks, newest first.',
        args: { filter: t.arg({ type: filter, description: 'Conditions on the tasks.' }) },
        resolve: (_root, { filter: wanted, ...page }, context) =>
          listTasks(context.operation.read, page, {
            sessionId: wanted?.sessionId && decodeId(wanted.sessionId, 'Session', 'filter.sessionId'),
            agentId: wanted?.agentId && decodeId(wanted.agentId, 'Agent', 'filter.agentId'),
            states: wanted?.states,
          }),
      },
      types.connection,
    ),
  );
  builder.queryField('task', (t) =>
    t.field({
      type: 'Task',
      nullable: true,
      description: 'One of your tasks; null when you have none of that id.',
      args: { id: t.arg.id({ required: true, description: 'Id of the task.' }) },
      resolve: (_root, { id }, context) => taskById(context.operation.read, decodeId(id, 'Task', 'id')),
    }),
  );

  const changed = builder.objectRef<{ taskId: string }>('TaskPayload').implement({
    description: 'A task after a change.',
    fields: (t) => ({
      task: t.field({
        type: 'Task',
        nullable: true,
        description: 'The task; null when it was deleted since.',
        resolve: ({ taskId }, _arguments, context) => taskById(context.operation.read, taskId),
      }),
    }),
  });
  const many = builder.objectRef<{ cancelled: string }>('CancelTasksPayload').implement({
    description: 'Tasks were cancelled.',
    fields: (t) => ({
      count: t.int({
        description: 'How many were cancelled or skipped.',
        resolve: ({ cancelled }) => Number(cancelled),
      }),
    }),
  });
  builder.mutationField('cancelTask', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description:
        'Cancels a task, whether it waits or runs, and skips what depends on it. Errors: NOT_FOUND, TASK_ENDED.',
      args: { id: t.arg.id({ required: true, description: 'Id of the task.' }) },
      resolve: (_root, { id }, context, info) =>
        mutate(context, info, { id }, (operation) => cancelTask(operation, decodeId(id, 'Task', 'id'))),
    }),
  );
  builder.mutationField('cancelSessionTasks', (t) =>
    t.field({
      type: many,
      nullable: true,
      description: 'Cancels all tasks of a session that have not ended. Errors: NOT_FOUND.',
      args: { sessionId: t.arg.id({ required: true, description: 'The session whose tasks are to stop.' }) },
      resolve: (_root, { sessionId }, context, info) =>
        mutate(context, info, { sessionId }, (operation) =>
          cancelTasksOfSession(operation, decodeId(sessionId, 'Session', 'sessionId')),
        ),
    }),
  );
  builder.mutationField('cancelAgentTasks', (t) =>
    t.field({
      type: many,
      nullable: true,
      description: 'Cancels all tasks of an agent that have not ended. Errors: NOT_FOUND.',
      args: { agentId: t.arg.id({ required: true, description: 'The agent whose tasks are to stop.' }) },
      resolve: (_root, { agentId }, context, info) =>
        mutate(context, info, { agentId }, (operation) =>
          cancelTasksOfAgent(operation, decodeId(agentId, 'Agent', 'agentId')),
        ),
    }),
  );
}

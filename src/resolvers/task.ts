import { type Builder, decodeId } from '../schema/builder.ts';
import type { addTask } from '../schema/task.ts';
import { listTasks, taskById } from '../services/task.ts';

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
}

// Starts a stack in the folder named by the argument, says so in one line of JSON, and stays until it is killed.
import { startStack } from '../../dev/stack.ts';

const dataFolder = process.argv[2];
if (dataFolder === undefined) throw new Error('Name the data folder as the argument.');
const stack = await startStack({ dataFolder, postgresSettings: { fsync: 'off' } });
process.stdout.write(
  `${JSON.stringify({ isReused: stack.isReused, processes: stack.processes, postgres: stack.postgres })}\n`,
);
setInterval(() => undefined, 60_000);

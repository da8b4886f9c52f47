import { readEvents } from '../http/event-reader.ts';
import { placeOf } from './log.ts';

// A client in a process of its own, so that a test can stop it as a whole. It resumes whenever its stream ends, and
// prints the place of each event of the log.
const [url = '', token = ''] = process.argv.slice(2);
let after: string | undefined = Buffer.from('event:0').toString('base64url');
for (;;) {
  const reader = readEvents(url, token, { after });
  let printed = 0;
  while (reader.ended() === null || printed < reader.items.length) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    for (; printed < reader.items.length; printed += 1) {
      const item = reader.items[printed];
      if (item !== undefined) {
        after = item.cursor;
        process.stdout.write(`${item.__typename} ${placeOf(item.cursor)}\n`);
      }
    }
  }
  process.stdout.write('ended\n');
  reader.close();
}

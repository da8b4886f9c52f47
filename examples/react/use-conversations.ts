import { type Dispatch, useEffect, useReducer, useState } from 'react';
import { type Conversations, hear, type News, nothingYet } from './conversation.ts';
import { type Connection, follow, type Subscribe } from './follow.ts';

/** Follows the events as long as the component is shown. `subscribe` must be the same function at each call. */
export function useConversations(subscribe: Subscribe): {
  conversations: Conversations;
  connection: Connection;
  tell: Dispatch<News>;
} {
  const [conversations, tell] = useReducer(hear, nothingYet);
  const [connection, setConnection] = useState<Connection>({ state: 'connecting' });
  useEffect(() => {
    const follower = follow(subscribe, {
      event: (event) => tell({ kind: 'event', event }),
      connection: setConnection,
    });
    const retry = (): void => follower.retryNow();
    window.addEventListener('online', retry);
    return () => {
      window.removeEventListener('online', retry);
      follower.stop();
    };
  }, [subscribe]);
  return { conversations, connection, tell };
}

import { Client, type CombinedError, cacheExchange, fetchExchange } from '@urql/core';
import { type Subscribe, willPass } from '../react/follow.ts';
import { EventsDocument } from '../react/generated/graphql.ts';
import type { Account } from '../react/sign-in.tsx';

/** urql reads Server-Sent Events by itself: its fetch exchange takes subscriptions too. */
export function createClient({ url, token }: Account): Client {
  return new Client({
    url,
    exchanges: [cacheExchange, fetchExchange],
    fetchSubscriptions: true,
    preferGetMethod: false,
    fetchOptions: { headers: { authorization: `Bearer ${token}` } },
  });
}

/** One connection of the event stream. */
export function subscribeWith(client: Client): Subscribe {
  return (after, sink) => {
    const { unsubscribe } = client.subscription(EventsDocument, { after }).subscribe(({ data, error, hasNext }) => {
      if (error !== undefined) {
        sink.ended(explain(error), !willPass(statusOf(error), error.graphQLErrors));
      } else if (!hasNext) {
        // The end repeats the last result.
        sink.ended('the service ended the stream', false);
      } else if (data !== undefined) {
        sink.event(data.events);
      }
    });
    return unsubscribe;
  };
}

/** What the service said, without the prefix that urql puts before it. */
export function explain({ graphQLErrors, networkError, message }: CombinedError): string {
  return graphQLErrors[0]?.message ?? networkError?.message ?? message;
}

function statusOf({ response }: CombinedError): number | undefined {
  return response instanceof Response ? response.status : undefined;
}

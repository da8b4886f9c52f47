import { ApolloClient, ApolloLink, CombinedGraphQLErrors, HttpLink, InMemoryCache, Observable } from '@apollo/client';
import { type GraphQLError, type GraphQLFormattedError, OperationTypeNode, print } from 'graphql';
import { createClient as createSseClient, NetworkError } from 'graphql-sse';
import { type Subscribe, willPass } from '../react/follow.ts';
import { EventsDocument } from '../react/generated/graphql.ts';
import type { Account } from '../react/sign-in.tsx';

/** Queries and mutations go over HTTP, subscriptions over Server-Sent Events. */
export function createClient({ url, token }: Account): ApolloClient {
  const headers = { authorization: `Bearer ${token}` };
  return new ApolloClient({
    cache: new InMemoryCache(),
    link: ApolloLink.split(
      ({ operationType }) => operationType === OperationTypeNode.SUBSCRIPTION,
      createSseLink(url, headers),
      new HttpLink({ uri: url, headers }),
    ),
  });
}

/** Apollo's own link for subscriptions speaks another protocol: this one hands them to `graphql-sse`. */
function createSseLink(url: string, headers: Record<string, string>): ApolloLink {
  // The client's own retry would send the first cursor again: `follow` sends the newest.
  const client = createSseClient({ url, headers, retryAttempts: 0 });
  return new ApolloLink(
    ({ query, variables, operationName }) =>
      new Observable((observer) =>
        client.subscribe<Record<string, unknown>>(
          { query: print(query), variables, ...(operationName === undefined ? {} : { operationName }) },
          {
            next: ({ data, errors }) =>
              observer.next({ data: data ?? null, ...(errors && { errors: errors.map(plain) }) }),
            error: (error) => observer.error(error),
            complete: () => observer.complete(),
          },
        ),
      ),
  );
}

function plain({ message, path, extensions }: GraphQLError): GraphQLFormattedError {
  return { message, extensions, ...(path && { path }) };
}

/** One connection of the event stream. */
export function subscribeWith(client: ApolloClient): Subscribe {
  return (after, sink) => {
    const end = (error: unknown): void =>
      sink.ended(
        error instanceof Error ? error.message : 'the connection broke',
        !willPass(
          error instanceof NetworkError ? error.response?.status : undefined,
          CombinedGraphQLErrors.is(error) ? error.errors : [],
        ),
      );
    const subscription = client
      // What events tell is kept by the page: a cache of them would only grow.
      .subscribe({ query: EventsDocument, variables: { after }, fetchPolicy: 'no-cache' })
      .subscribe({
        next: ({ data, error }) => {
          if (error !== undefined) {
            end(error);
          } else if (data) {
            sink.event(data.events);
          }
        },
        error: end,
        complete: () => sink.ended('the service ended the stream', false),
      });
    return () => subscription.unsubscribe();
  };
}

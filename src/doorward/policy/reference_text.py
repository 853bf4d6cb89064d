"""What the policy reference says beside the criteria: prose, tables and examples that tests run."""

from doorward.policy.nodes import Comparison

ON_ONE = {
    Comparison.IS: "equals",
    Comparison.NOT: "does not equal",
    Comparison.CONTAINS: "has it somewhere inside",
    Comparison.STARTS_WITH: "begins with it",
    Comparison.ENDS_WITH: "ends with it",
    Comparison.IN: "equals one of a list",
    Comparison.NOT_IN: "equals none of a list",
    Comparison.GLOB: "matches as a whole: `*` is anything but `/`, `**` anything, `?` one character but `/`",
    Comparison.REGEX: "has a match of the regular expression (RE2's, of linear time) anywhere; anchor it with `^` and `$`",
    Comparison.LESS: "is a number below it",
    Comparison.AT_MOST: "is a number, at most it",
    Comparison.EQUALS: "is a number equal to it, however it is written",
    Comparison.MORE: "is a number above it",
    Comparison.AT_LEAST: "is a number, at least it",
    Comparison.EXISTS: "is there (`true`), or is not (`false`); never unknown",
}
ON_SEVERAL = {
    Comparison.HAS: "it, or one of a list, is among the values",
    Comparison.IS: "it is the only value",
    Comparison.EXCLUDE: "it, and all of a list, are not among the values",
}

INTRODUCTION = """\
# Policy reference

This page is written by `doorward.policy.reference` from the criteria themselves.

A policy says who may use a route. It stands under the route's `policy`, and is a list of rules:

```yaml
policy:
  - deny:
      or:
        - email: mallory@example.com
  - allow:
      and:
        - domain: example.com
        - groups: {has: admins}
cases:
  - {principal: {email: alice@example.com, groups: [admins]}, effect: allow, reasons: [domain-ok, groups-ok], rule: allow-1}
  - {principal: {email: mallory@example.com, groups: [admins]}, effect: deny, reasons: [email-ok], rule: deny-1}
  - {principal: {email: alice@example.com, groups: []}, effect: deny, reasons: [groups-unauthorized]}
  - {effect: sign-in, reasons: [user-unauthenticated], rule: allow-1}
```

Every block on this page with `policy` and `cases` is run by the tests: each case must come out as it says. A case without
`principal` is somebody who is not signed in.

## Rules

- A rule is `allow` or `deny` with one or more operators. Several operators in a rule, and several rules of one action, are
  alternatives: one of them is enough.
- An operator holds a list. Each item is one criterion with its value, or another operator with its list.
- `deny` goes before `allow`, wherever it stands. What no rule allows is denied.
- Rules are named by action and place: `allow-1` is the first operator under any `allow`. `name` beside the action gives a
  rule with one operator a name of its own. Decision records carry the name.

| operator | holds when |
|---|---|
| `and` | every item holds |
| `or` | at least one item holds |
| `not` | no item holds |
| `nor` | at least one item does not hold |

`all`, `any` and `none` are other words for `and`, `or` and `not`. Mind `not` and `nor`: they are PPL's, so that its documents
mean here what they mean there.

```yaml
policy:
  - allow:
      all:
        - authenticated_user: true
        - none:
            - http_path: {starts_with: /admin/}
            - http_method: DELETE
cases:
  - {principal: {}, request: {path: /home}, effect: allow, reasons: [http-method-unauthorized, http-path-unauthorized, user-ok]}
  - {principal: {}, request: {path: /admin/users}, effect: deny, reasons: [http-path-ok]}
  - {principal: {}, request: {method: DELETE, path: /home}, effect: deny, reasons: [http-method-ok]}
```

## Truth

A criterion is true, false or unknown. Unknown are: a fact that is absent (no verified e-mail address, a claim that the
identity provider did not send), groups that are not known completely, and a criterion that failed. Criteria about people are
*not signed in* for somebody who is not: unknown for that reason alone.

| A | B | `and` | `or` | `not` | `nor` |
|---|---|---|---|---|---|
| true | true | true | true | false | false |
| true | false | false | true | false | true |
| true | unknown | unknown | true | false | unknown |
| true | not signed in | not signed in | true | false | not signed in |
| false | false | false | false | true | true |
| false | unknown | false | unknown | unknown | true |
| false | not signed in | false | not signed in | not signed in | true |
| unknown | unknown | unknown | unknown | unknown | unknown |
| unknown | not signed in | unknown | unknown | unknown | unknown |
| not signed in | not signed in | not signed in | not signed in | not signed in | not signed in |

- An `allow` lets in only when it is true.
- A `deny` that is true or unknown denies. One that is only *not signed in* counts as false, so that a public route with
  a rule about people stays public.
- When nobody is signed in, nothing denies and nothing allows, sign-in is offered if some `allow` is *not signed in*: then it
  could become true.
- When somebody is signed in and only `authentication` stands between them and an `allow`, a fresher or stronger sign-in of the
  same person is asked for (`step-up`).
- Everything else is denied.

A group that is unknown lets nobody in, and keeps out whoever a `deny` could be about:

```yaml
policy:
  - deny: {or: [{groups: {has: suspended}}]}
  - allow: {or: [{authenticated_user: true}]}
cases:
  - {principal: {groups: [eng]}, effect: allow, reasons: [user-ok]}
  - {principal: {groups: []}, effect: allow, reasons: [user-ok]}
  - {principal: {groups: null}, effect: deny, reasons: [groups-unknown], rule: deny-1}
```

An absent value is unknown unless the term says `optional: true`, or asks for it with `exists`:

```yaml
policy:
  - deny: {or: [{claim/contract: {is: ended, optional: true}}]}
  - allow: {and: [{claim/contract: {exists: false}}]}
  - allow: {and: [{claim/contract: active}]}
cases:
  - {principal: {claims: {}}, effect: allow, reasons: [claim-ok], rule: allow-1}
  - {principal: {claims: {contract: active}}, effect: allow, reasons: [claim-ok], rule: allow-2}
  - {principal: {claims: {contract: ended}}, effect: deny, reasons: [claim-ok], rule: deny-1}
```

## Matchers

Several matchers in one mapping must all hold. Values are strings: put numbers into quotes, but behind `<`, `<=`, `=`, `>`
and `>=`. Empty strings and empty lists are refused. Where a list may stand, `{set: NAME}` names one of the configuration's sets.
"""

CLOSING = """\
## Names for what many routes share

`sets` and `policies` of the configuration hold lists and policies under names. A route takes a policy by its name, or a list of
names and rules:

```yaml
sets:
  office: [192.0.2.0/24, "2001:db8::/32"]
  leads: [alice@example.com, bob@example.com]
policies:
  staff:
    - allow: {and: [{domain: example.com}]}
  not-from-outside:
    - deny: {none: [{source_ip: {set: office}}]}
policy: [not-from-outside, staff, {allow: {or: [{email: {in: {set: leads}}}]}}]
cases:
  - {principal: {email: eve@example.com}, request: {client_address: 192.0.2.7}, effect: allow, reasons: [domain-ok]}
  - {principal: {email: eve@example.com}, request: {client_address: 198.51.100.7}, effect: deny, reasons: [source-ip-unauthorized]}
  - {principal: {email: eve@elsewhere.example}, request: {client_address: 192.0.2.7}, effect: deny, reasons: [domain-unauthorized, email-unauthorized]}
```

## PPL's documents

`dialect: ppl` takes a policy as it was written for Pomerium:

```yaml
policy:
  dialect: ppl
  rules:
    - allow: {or: [{domain: {is: example.com}}, {claim/team: {has: ops}}]}
    - deny: {or: [{groups: {has: suspended}}]}
cases:
  - {principal: {email: a@example.com}, effect: allow, reasons: [domain-ok]}
  - {principal: {email: a@elsewhere.example}, effect: deny, reasons: [claim-unauthorized, domain-unauthorized]}
  - {effect: sign-in, reasons: [user-unauthenticated]}
```

It differs from the format of version 1 where PPL does:

- An absent claim, header or certificate does not match; it is not unknown.
- `groups` compares ids, and `user` the subject that the identity provider gave.
- Criteria about somebody who is not signed in are false and leave the wish to sign in, also below `not` and `nor`, and in `deny`.
- The value of `accept`, `reject`, `authenticated_user` and `cors_preflight` is not looked at; the checker warns.
- `time_of_day` over midnight never holds; the checker warns.
- Only PPL's own criteria, operators and matchers are known.

Groups that are not known, and a criterion that failed, stay unknown in both: an error never lets anybody in.

## Reasons

A decision names its reasons: stable words such as `groups-ok` (the criterion held), `groups-unauthorized` (it did not) and
`groups-unknown` (it could not be told). `user-unauthenticated` stands for every criterion about people when nobody is signed
in, `no-rule-allows` for a policy without `allow`, `policy-error` for a criterion that failed. Under `not` and `nor` the
criterion keeps its own reason.

## What a policy cannot look at

The body of a request: it is never read, so a decision cannot depend on half of one. There is no criterion that runs code or
asks over a network; every policy ends in bounded time.
"""

"""Directories over HTTP that keep the recorded shapes of the real ones: fields, paging, limits of rate, and their ways to fail.

Each is an ``httpx`` transport over one population that a test may change; what a test breaks is broken by path.
"""

import json
import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

TENANT = "7f1f0d0e-0000-4000-8000-000000000001"


@dataclass
class Population:
    """People by id with whether they are active, groups by id, members and nested groups by group."""

    people: dict[str, bool] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    members: dict[str, list[str]] = field(default_factory=dict)
    nested: dict[str, list[str]] = field(default_factory=dict)

    def join(self, group: str, *people: str) -> None:
        self.groups.setdefault(group, group.title())
        self.members.setdefault(group, []).extend(people)


Fault = Callable[[httpx.Request], httpx.Response | None]


class FakeDirectory:
    """The common part: who asked for what, and what is broken."""

    base = "https://directory.example.com"
    nests = False
    knows_inactive = True
    name_of: Callable[[str, str], str]

    def __init__(self, population: Population, page: int = 3) -> None:
        self.population = population
        self.page = page
        self.requests: list[str] = []
        self.fault: Fault | None = None

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self._serve))

    def _serve(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(str(request.url))
        broken = self.fault(request) if self.fault is not None else None
        return broken if broken is not None else self.answer(request)

    def answer(self, request: httpx.Request) -> httpx.Response:
        raise NotImplementedError

    def calls(self, group_id: str) -> str:
        """What people call a group there."""
        return self.population.groups[group_id]

    def _linked(self, request: httpx.Request, items: list[Any]) -> httpx.Response:
        """A page with a Link header."""
        after = int(request.url.params.get("after", "0"))
        headers = {}
        if after + self.page < len(items):
            following = request.url.copy_set_param("after", str(after + self.page))
            headers["link"] = f'<{request.url}>; rel="self", <{following}>; rel="next"'
        return httpx.Response(200, json=items[after : after + self.page], headers=headers)


class FakeKeycloak(FakeDirectory):
    nests = True

    def calls(self, group_id: str) -> str:
        parent = next((group for group, children in self.population.nested.items() if group_id in children), None)
        return f"{self.calls(parent) if parent else ''}/{self.population.groups[group_id]}"

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/realms/corp/protocol/openid-connect/token":
            form = dict(urllib.parse.parse_qsl(request.content.decode()))
            good = form == {"grant_type": "client_credentials", "client_id": "reader", "client_secret": "secret"}
            answer = {"access_token": "t", "expires_in": 60, "token_type": "Bearer"}
            return httpx.Response(200, json=answer) if good else httpx.Response(401, json={"error": "invalid_client"})
        if request.headers.get("authorization") != "Bearer t":
            return httpx.Response(401, json={"error": "HTTP 401 Unauthorized"})
        base = "/admin/realms/corp"
        if path == f"{base}/users/count":
            return httpx.Response(200, json=len(self.population.people))
        if path == f"{base}/users":
            return self._part(request, [self._user(person) for person in self.population.people])
        children = {child for found in self.population.nested.values() for child in found}
        if path == f"{base}/groups":
            return self._part(
                request, [self._group(group) for group in self.population.groups if group not in children]
            )
        if match := re.fullmatch(rf"{base}/groups/([^/]+)/(members|children)", path):
            group, what = match.groups()
            if what == "members":
                return self._part(request, [self._user(person) for person in self.population.members.get(group, [])])
            return self._part(request, [self._group(child) for child in self.population.nested.get(group, [])])
        return httpx.Response(404, json={"error": "Could not find resource"})

    def _part(self, request: httpx.Request, items: list[Any]) -> httpx.Response:
        first, most = int(request.url.params["first"]), int(request.url.params["max"])
        return httpx.Response(200, json=items[first : first + min(most, self.page)])

    def _user(self, person: str) -> dict[str, Any]:
        return {
            "id": person, "username": person, "firstName": person.title(), "lastName": "Example",
            "email": f"{person}@example.com", "emailVerified": True, "enabled": self.population.people[person],
        }  # fmt: skip

    def _group(self, group: str) -> dict[str, Any]:
        return {
            "id": group, "name": self.population.groups[group], "path": self.calls(group),
            "subGroupCount": len(self.population.nested.get(group, [])), "subGroups": [],
        }  # fmt: skip


class FakeGithub(FakeDirectory):
    """Ids are numbers; a team's members include those of its child teams; nobody is inactive."""

    base = "https://api.github.com"
    knows_inactive = False

    def _number(self, name: str) -> int:
        return 1000 + sorted([*self.population.people, *self.population.groups]).index(name)

    def calls(self, group_id: str) -> str:
        return group_id

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.headers.get("authorization") != "Bearer secret":
            return httpx.Response(401, json={"message": "Bad credentials"})
        path = request.url.path
        if path == "/orgs/corp/members":
            return self._linked(request, [self._user(person) for person in self.population.people])
        if path == "/orgs/corp/teams":
            teams = [
                {"id": self._number(group), "slug": group, "name": group.title(), "parent": None}
                for group in self.population.groups
            ]
            return self._linked(request, teams)
        if match := re.fullmatch(r"/orgs/corp/teams/([^/]+)/members", path):
            members = self.population.members.get(match[1], [])
            return self._linked(request, [self._user(person) for person in members])
        return httpx.Response(404, json={"message": "Not Found"})

    def _user(self, person: str) -> dict[str, Any]:
        return {"login": person, "id": self._number(person), "type": "User", "site_admin": False}


class FakeOkta(FakeDirectory):
    base = "https://corp.okta.com"

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.headers.get("authorization") != "SSWS secret":
            return httpx.Response(401, json={"errorCode": "E0000011", "errorSummary": "Invalid token provided"})
        path = request.url.path
        if path == "/api/v1/users":
            return self._linked(request, [self._user(person) for person in self.population.people])
        if path == "/api/v1/groups":
            groups = [
                {"id": group, "type": "OKTA_GROUP", "profile": {"name": name, "description": None}}
                for group, name in self.population.groups.items()
            ]
            return self._linked(request, groups)
        if match := re.fullmatch(r"/api/v1/groups/([^/]+)/users", path):
            members = self.population.members.get(match[1], [])
            return self._linked(request, [self._user(person) for person in members])
        return httpx.Response(404, json={"errorCode": "E0000007"})

    def _user(self, person: str) -> dict[str, Any]:
        status = "ACTIVE" if self.population.people[person] else "SUSPENDED"
        profile = {
            "firstName": person.title(), "lastName": "Example", "email": f"{person}@example.com",
            "login": f"{person}@example.com",
        }  # fmt: skip
        return {"id": person, "status": status, "profile": profile}


class FakeEntra(FakeDirectory):
    """Delta queries: a link remembers what it has told; ``expire`` makes every link worthless."""

    base = "https://graph.microsoft.com"
    nests = True

    def __init__(self, population: Population, page: int = 3) -> None:
        super().__init__(population, page)
        self._told: dict[str, dict[str, Any]] = {}
        self._pages: dict[str, list[dict[str, Any]]] = {}
        self._counter = 0

    def expire(self) -> None:
        self._told.clear()

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "login.microsoftonline.com":
            form = dict(urllib.parse.parse_qsl(request.content.decode()))
            good = request.url.path == f"/{TENANT}/oauth2/v2.0/token" and form["client_secret"] == "secret"
            answer = {"token_type": "Bearer", "expires_in": 3599, "access_token": "t"}
            return httpx.Response(200, json=answer) if good else httpx.Response(401, json={"error": "invalid_client"})
        if request.headers.get("authorization") != "Bearer t":
            return httpx.Response(401, json={"error": {"code": "InvalidAuthenticationToken"}})
        kind = request.url.path.removeprefix("/v1.0/").removesuffix("/delta")
        if kind not in {"users", "groups"}:
            return httpx.Response(404, json={"error": {"code": "Request_ResourceNotFound"}})
        skip, delta = request.url.params.get("$skiptoken"), request.url.params.get("$deltatoken")
        if skip is not None:
            rest = self._pages.pop(skip)
        elif delta is not None and delta not in self._told:
            return httpx.Response(410, json={"error": {"code": "syncStateNotFound"}})
        else:
            rest = self._changes(kind, self._told.get(delta or "", {}))
        return self._answer_page(kind, rest)

    def _answer_page(self, kind: str, rest: list[dict[str, Any]]) -> httpx.Response:
        self._counter += 1
        token = f"{kind}-{self._counter}"
        page, rest = rest[: self.page], rest[self.page :]
        body: dict[str, Any] = {"@odata.context": f"{self.base}/v1.0/$metadata#{kind}", "value": page}
        if rest:
            self._pages[token] = rest
            body["@odata.nextLink"] = f"{self.base}/v1.0/{kind}/delta?$skiptoken={token}"
        else:
            self._told[token] = json.loads(json.dumps(self._state(kind)))
            body["@odata.deltaLink"] = f"{self.base}/v1.0/{kind}/delta?$deltatoken={token}"
        return httpx.Response(200, json=body)

    def _state(self, kind: str) -> dict[str, Any]:
        if kind == "users":
            return {
                person: {"accountEnabled": active, "displayName": person.title(), "mail": f"{person}@example.com"}
                for person, active in self.population.people.items()
            }
        return {
            group: {
                "displayName": name,
                "members": {
                    **dict.fromkeys(self.population.members.get(group, []), "user"),
                    **dict.fromkeys(self.population.nested.get(group, []), "group"),
                },
            }
            for group, name in self.population.groups.items()
        }

    def _changes(self, kind: str, before: dict[str, Any]) -> list[dict[str, Any]]:
        now = self._state(kind)
        changes: list[dict[str, Any]] = [
            {"id": gone, "@removed": {"reason": "deleted"}} for gone in before if gone not in now
        ]
        for name, item in now.items():
            old = before.get(name, {})
            changed = {key: value for key, value in item.items() if key != "members" and old.get(key) != value}
            if kind == "users":
                if changed:
                    changes.append({"id": name, **changed})
                continue
            was, now_in = old.get("members", {}), item["members"]
            members: list[dict[str, Any]] = [
                {"@odata.type": f"#microsoft.graph.{what}", "id": member}
                for member, what in now_in.items()
                if member not in was
            ]
            members += [
                {"@odata.type": f"#microsoft.graph.{what}", "id": member, "@removed": {"reason": "deleted"}}
                for member, what in was.items()
                if member not in now_in
            ]
            # Members come in parts, the group again with each.
            parts = [members[start : start + 2] for start in range(0, len(members), 2)]
            if name not in before or changed or parts:
                for part in parts or [[]]:
                    changes.append({"id": name, **changed, **({"members@delta": part} if part else {})})
        return changes


class FakeGoogle(FakeDirectory):
    """Empty lists are left out; a group's members may be groups."""

    base = "https://admin.googleapis.com"
    nests = True

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "oauth2.googleapis.com":
            form = dict(urllib.parse.parse_qsl(request.content.decode()))
            good = (
                form.get("grant_type") == "urn:ietf:params:oauth:grant-type:jwt-bearer"
                and form["assertion"].count(".") == 2
            )
            answer = {"access_token": "t", "expires_in": 3599, "token_type": "Bearer"}
            return httpx.Response(200, json=answer) if good else httpx.Response(400, json={"error": "invalid_grant"})
        if request.headers.get("authorization") != "Bearer t":
            return httpx.Response(401, json={"error": {"code": 401}})
        path = request.url.path.removeprefix("/admin/directory/v1")
        if path == "/users":
            return self._tokened(request, "users", [self._user(person) for person in self.population.people])
        if path == "/groups":
            groups = [
                {"kind": "admin#directory#group", "id": group, "email": f"{group}@groups.example.com", "name": name}
                for group, name in self.population.groups.items()
            ]
            return self._tokened(request, "groups", groups)
        if match := re.fullmatch(r"/groups/([^/]+)/members", path):
            members = [{"id": person, "type": "USER"} for person in self.population.members.get(match[1], [])]
            members += [{"id": group, "type": "GROUP"} for group in self.population.nested.get(match[1], [])]
            return self._tokened(request, "members", [{"kind": "admin#directory#member", **m} for m in members])
        return httpx.Response(404, json={"error": {"code": 404}})

    def _tokened(self, request: httpx.Request, name: str, items: list[Any]) -> httpx.Response:
        start = int(request.url.params.get("pageToken", "0"))
        body: dict[str, Any] = {"kind": f"admin#directory#{name}", "etag": "x"}
        if page := items[start : start + self.page]:
            body[name] = page
        if start + self.page < len(items):
            body["nextPageToken"] = str(start + self.page)
        return httpx.Response(200, json=body)

    def _user(self, person: str) -> dict[str, Any]:
        return {
            "kind": "admin#directory#user", "id": person, "primaryEmail": f"{person}@example.com",
            "name": {"fullName": person.title()}, "suspended": not self.population.people[person], "archived": False,
        }  # fmt: skip

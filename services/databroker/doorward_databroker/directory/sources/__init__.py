"""The directories that are read, one module each.

rest       paging, patience with rate limits and outages, and links that stay where they began
ldap       LDAP, paged, nested groups or `memberOf`
keycloak   github   okta   entra   google
all        which module reads which kind
"""

<#
.SYNOPSIS
Prepares .env.docker for docker-compose.yml on Windows. On Linux and macOS: deploy/setup-docker.sh.

.DESCRIPTION
  powershell -ExecutionPolicy Bypass -File deploy\setup-docker.ps1
      makes .env.docker of .env.docker.example, or keeps yours
  powershell -ExecutionPolicy Bypass -File deploy\setup-docker.ps1 -Subscription
      and lets the proxy use your Claude Code login (terms: docs/limits.md)

What is there is never lost: a file that would change is copied to FILE.backup.TIME first, and the rest of it stays.

The limit of a mounted file: Docker mounts the very file that is there when the container starts. The proxy writes into
it in place. Claude Code may put a new file in its place, and the containers keep the old one until they are started
again (docker compose restart cc-proxy). Docker Desktop also has to share the drive on which the file lies. A token that
needs no file has no such limits: `claude setup-token` makes one, for CLAUDE_CODE_OAUTH_TOKEN.

.PARAMETER Subscription
Let the proxy use your Claude Code login.

.PARAMETER EnvFile
Instead of .env.docker beside docker-compose.yml, or of PROXY_ENV_FILE.

.PARAMETER Credentials
Claude Code's credentials file, where it is not found by itself.
#>
[CmdletBinding()]
param(
    [switch]$Subscription,
    [string]$EnvFile = $env:PROXY_ENV_FILE,
    [string]$Credentials = $env:CLAUDE_CREDENTIALS_FILE
)

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

# The user's profile. In a service or a remote session the variable may be missing, the folder is not.
function Get-ProfileFolder {
    if ($env:USERPROFILE) { return $env:USERPROFILE }
    return [Environment]::GetFolderPath('UserProfile')
}

# Where Claude Code keeps its login; nothing where it has none.
function Find-Credentials {
    $folders = @($env:CLAUDE_CONFIG_DIR, (Join-Path (Get-ProfileFolder) '.claude'))
    foreach ($folder in $folders) {
        if (-not $folder) { continue }
        $file = Join-Path $folder '.credentials.json'
        if (Test-Path -LiteralPath $file -PathType Leaf) { return $file }
    }
    return $null
}

# A path as Compose takes it on Windows: C:\Claude\x becomes C:/Claude/x. Back slashes would be escapes there.
function ConvertTo-ComposePath([string]$Path) {
    return (Resolve-Path -LiteralPath $Path).ProviderPath.Replace('\', '/')
}

# A value as env files take it: in quotes where it has more than plain characters.
function Format-Value([string]$Value) {
    if ($Value.Contains("'")) { throw "${Value}: a path with a quote in it can't be written into an env file" }
    if ($Value -match '^[A-Za-z0-9_./:@-]*$') { return $Value }
    return "'$Value'"
}

# Sets a variable in the lines: in its place, commented out or not, else at the end.
function Set-EnvLine([string[]]$Lines, [string]$Name, [string]$Value) {
    $line = "$Name=$(Format-Value $Value)"
    $found = $false
    $result = New-Object System.Collections.Generic.List[string]
    foreach ($old in $Lines) {
        $is_set = $old.StartsWith("$Name=", [StringComparison]::Ordinal)
        $is_example = $old.StartsWith("#$Name=", [StringComparison]::Ordinal)
        if (-not $found -and ($is_set -or $is_example)) {
            $result.Add($line)
            $found = $true
        }
        elseif (-not $is_set) { $result.Add($old) }
    }
    if (-not $found) { $result.Add($line) }
    return , $result.ToArray()
}

# A copy that overwrites no earlier one.
function Backup-File([string]$Path) {
    $copy = "$Path.backup.$(Get-Date -Format 'yyyyMMdd-HHmmss')"
    while (Test-Path -LiteralPath $copy) { $copy = "$copy.again" }
    Copy-Item -LiteralPath $Path -Destination $copy
    Write-Host "Kept as it was: $copy"
}

# Writes a text: UTF-8 without a mark, lines as Compose and the containers expect them; all of it, or nothing.
function Write-Text([string]$Path, [string]$Text) {
    $new = "$Path.new"
    [IO.File]::WriteAllText($new, $Text, (New-Object System.Text.UTF8Encoding($false)))
    Move-Item -LiteralPath $new -Destination $Path -Force
}

$here = Split-Path -Parent $PSScriptRoot
if (-not $EnvFile) { $EnvFile = Join-Path $here '.env.docker' }
$EnvFile = $ExecutionContext.SessionState.Path.GetUnresolvedProviderPathFromPSPath($EnvFile)
$exists = Test-Path -LiteralPath $EnvFile -PathType Leaf
$source = $EnvFile
if (-not $exists) { $source = Join-Path $here '.env.docker.example' }
$before = [IO.File]::ReadAllText($source).Replace("`r`n", "`n")
$lines = $before.TrimEnd("`n").Split("`n")

if ($Subscription) {
    if (-not $Credentials) { $Credentials = Find-Credentials }
    if (-not $Credentials) { throw 'No Claude Code login found; log in with claude, or name the file with -Credentials' }
    if (-not (Test-Path -LiteralPath $Credentials -PathType Leaf)) { throw "${Credentials}: no such file" }
    $mounted = ConvertTo-ComposePath $Credentials
    $lines = Set-EnvLine $lines 'CLAUDE_SUBSCRIPTION_ENABLED' 'true'
    $lines = Set-EnvLine $lines 'CLAUDE_CREDENTIALS_FILE' $mounted
    Write-Host "The proxy will use the login in $mounted"
}

$after = ($lines -join "`n") + "`n"
if ($exists -and $after -eq $before) {
    Write-Host "Nothing to change in $EnvFile"
}
else {
    if ($exists) { Backup-File $EnvFile }
    Write-Text $EnvFile $after
    Write-Host "Written: $EnvFile"
}

Write-Host @"

Put your keys into it, then:

  cd "$here"
  docker compose --env-file "$EnvFile" up -d
  docker compose logs cc-migrate      # shows the client key, once, with the line that uses it
"@
